"""Which algorithm computes a conv, by a cost rule, and what the algorithm keeps: packed weights and scratch.

The kernels follow this rule unless something else was measured on their machine; the planner knows no more than the rule,
and the `Vectors` of the devices that it plans for.
Bytes are upper bounds over all instruction sets: the widest vector has 16 lanes, a block has 16 channels, and no instruction
multiplies several numbers of 16 bits, so that Winograd's algorithm, whose weights are the largest, is chosen where any
machine would choose it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fogconv.ir.geometry import BLOCK, BYTES_PER_ELEMENT, ConvSpec
from fogconv.ir.precision.elements import HALVES

Choose = Callable[[ConvSpec], str]
"""The algorithm of a conv."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """What the rule depends on in a CPU: the floats of a vector, and whether it multiplies and adds 16 floats per clock,
    not 32 (see `HALF_RATE`)."""

    lanes: int = BLOCK
    half_rate: bool = False

    def cheapest(self, spec: ConvSpec) -> str:
        """The name of the algorithm that the rule takes on this CPU; see `cycles`."""
        return cheapest(spec, self.lanes, half_rate=self.half_rate)


QUANTIZED = "int8"
"""The algorithm of 8-bit convs: direct, from weights of 8 bits."""

QUANTIZED_WINOGRAD = "int8_winograd4"
"""Their other one: F(4×4, 3×3) in integers of 16 bits, which gives the same bits."""

HALF = "half"
"""Direct convolution in 16 bits, from weights of 16 bits. Winograd's algorithm has its own in fp32, of these maps, too: on
products of 16 bits its transforms would lose more digits than there are."""

TOGETHER = 2
"""Products of 16 bits per lane of an instruction for them."""

DEPTHWISE_SIZES = (1, 2, 4, 8)
"""Channels per group of a depthwise conv."""

QUAD = 4
"""Input channels, and output channels, in one vector of weights for the last output channels of a map."""

FEWEST_CHANNELS = 12
"""The least number of input channels for which Winograd's transforms can pay."""

FEWEST_BYTES = 32
"""The same for bytes, input and output channels."""

FEWEST_BYTE_TILES = 32
"""The same for bytes, tiles: U takes eight times the memory of the weights. ResNet-50's 256×14×14 would take a fifth less
time with 28 MB more, as much again as all of its weights."""

LINE_CYCLES = ((256 * 1024, 1.0), (8 * 1024 * 1024, 3.0), (1 << 62, 6.0))
"""Weights of up to so many bytes: cycles to read a line of 16 floats (from the second-level cache, the third, memory)."""

HALF_RATE = 0.5
"""Of LINE_CYCLES, where a core multiplies 16 floats per clock instead of 32: its memory is no slower, but its products take
twice as long. Without it a Zen 4 took up to twice the time for shards of 2 to 6 rows (tests/ir/memory/test_algorithm.py)."""

TRANSFORM_CYCLES = {BLOCK: {2: (4.0, 3.0), 4: (4.0, 3.0), 6: (4.0, 3.0)}, 4: {2: (3.7, 3.1), 4: (6.7, 5.3), 6: (8.8, 7.7)}}
"""Per element and block of 16 channels: the input's transform, the output's, by the floats of a vector and by the outputs
per transformed dimension. Vectors of 4 floats: means of a Cortex-A72 and a Neoverse-N1 (`python -m bench.neon`), whose
registers do not hold F(4×4)'s tile. From fp16 an input's takes 1.3 times as long on both by the model: 3 % of a layer of 64
channels, and less of deeper ones. It is not counted."""

SHORT_TRANSFORM_CYCLES = (3.0, 6.0)
"""The same of 8-bit convs, on vectors of 16 integers of 16 bits, and back of 32."""

WINOGRAD_CYCLES = {BLOCK: (1.1, 2.0), 4: (1.0, 1.0)}
"""By the floats of a vector: Winograd's products over direct ones of the same number, and its weights, read from as many
places at once as a tile has elements, over direct ones. Fitted to the convs in tests/ir/memory/test_algorithm.py. Without it
VGG-16's last layers by rows seemed a quarter quicker than they are, and shards of few rows were computed by Winograd's
algorithm where the direct one is as fast or faster."""

SIX_CYCLES = {BLOCK: 1.12, 4: 1.03}
"""What a product costs in F(6×6, 3×3), over one in smaller tiles, by the floats of a vector. There are 21 % fewer of them
than in F(4×4, 3×3), but a map of 56×56 takes tiles for 60×60, and V, M and U of 64 elements leave the second-level cache
sooner. On a Zen 4, AVX-512 and AVX2, it took 0.88 to 0.96 of F(4×4, 3×3)'s time for VGG-16's 64→64@224, 64→128@112 and
128→128@112, and 0.95 to 1.05 for 128→256@56, 256→256@56 and ResNet-50's 64→64@56. Nothing was measured where a core
multiplies 32 floats per clock: there the rule does not take it. Nor on aarch64: llvm-mca knows no caches, so it is taken
where its model says that it saves more than this."""

WINOGRAD_KERNELS = ((3, 3), (5, 5), (1, 3), (3, 1), (1, 5), (5, 1), (1, 7), (7, 1))
"""7×7 is left out: it would need 100 elements per tile, and loses too many digits in two dimensions."""

WINOGRAD = {"winograd2": 2, "winograd4": 4, "winograd6": 6}
"""The outputs per transformed dimension."""

SIX, SIX_KERNEL = 6, (3, 3)
"""F(6×6, 3×3): its only kernel. Larger ones would need 100 elements per tile and more."""

FEWEST_SIX_TILES = 64
"""The least number of its tiles, those of a map of 48×48: U takes 1.8 times the memory of F(4×4, 3×3)'s. Measured were maps
of 56×56 and more, and 24 of 112 rows of 112, which are 76 tiles."""

SCRATCH_BYTES = 768 * 1024
"""Bytes of V and M together, when there are enough tiles: they stay in the second-level cache between the three steps."""

LEAST_TILES = 56
"""The least number of tiles at a time, because all of U is read again for each set of tiles."""

LARGE_TILE, LEAST_LARGE_TILES = 36, 42
"""The same for tiles of more elements than the first number, which take more room in the cache."""


def blocks(channels: int) -> int:
    """⌈channels/16⌉."""
    return -(-channels // BLOCK)


def is_linear(spec: ConvSpec) -> bool:
    """Whether a conv is a fully connected layer: one group, no padding, a kernel as large as its input."""
    return spec.groups == 1 and spec.padding == (0, 0, 0, 0) and spec.kernel == (spec.height, spec.width)


def is_depthwise(spec: ConvSpec, lanes: int = BLOCK) -> bool:
    """Whether every group has as many output as input channels, and fits into a vector of so many lanes."""
    size = spec.in_channels // spec.groups
    return spec.groups > 1 and spec.in_channels == spec.out_channels and size in DEPTHWISE_SIZES and size <= lanes


def winograd_outputs(spec: ConvSpec, m: int) -> tuple[int, int] | None:
    """Rows and columns of outputs per tile, m (2, 4 or 6) per transformed dimension; None where the shape forbids it."""
    kernels = (SIX_KERNEL,) if m == SIX else WINOGRAD_KERNELS
    if spec.kernel not in kernels or spec.stride != (1, 1) or spec.dilation != (1, 1) or spec.groups != 1:
        return None
    kh, kw = spec.kernel
    return m if kh > 1 else 1, m if kw > 1 else 1


def winograd_elements(spec: ConvSpec, outputs: tuple[int, int]) -> int:
    """Products per tile, input and output channel."""
    return (outputs[0] + spec.kernel[0] - 1) * (outputs[1] + spec.kernel[1] - 1)


def winograd_tiles(spec: ConvSpec, outputs: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of tiles of one image."""
    return -(-spec.out_height // outputs[0]), -(-spec.out_width // outputs[1])


def winograd_reach(spec: ConvSpec, outputs: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns that whole tiles read below and beside the input."""
    (down, across), (kh, kw), (top, _, left, _) = winograd_tiles(spec, outputs), spec.kernel, spec.padding
    return down * outputs[0] + kh - 1 - top - spec.height, across * outputs[1] + kw - 1 - left - spec.width


def reads_beyond(spec: ConvSpec) -> bool:
    """Whether an algorithm that might compute a spec reads more below or beside its input than the padding."""
    reaches = [winograd_reach(spec, outputs) for name in candidates(spec) if (outputs := _outputs(spec, name))]
    return any(below > spec.padding[1] or beside > spec.padding[3] for below, beside in reaches)


def winograd_sets(spec: ConvSpec, elements: int, tiles: int) -> tuple[int, ...]:
    """The number of sets and the tiles per set, so that V and M stay in the cache."""
    if _number_of_sets(spec, elements, tiles) == 1:
        return (tiles,) if tiles else ()
    most = _most_tiles(spec, elements)
    full, rest = divmod(tiles, most)
    return (most,) * full + ((rest,) if rest else ())


def candidates(spec: ConvSpec, lanes: int = BLOCK) -> tuple[str, ...]:
    """The algorithms that can run a spec and might be the fastest for it, the most general first. ``lanes``: of a vector.
    Those of 8-bit convs are exact. Depthwise and small groups in 16 bits are computed as those in fp32 are."""
    if spec.element == "uint8":
        return (QUANTIZED, QUANTIZED_WINOGRAD) if _by_shorts(spec, lanes) else (QUANTIZED,)
    half = spec.element in HALVES and not _by_few(spec, lanes)
    if is_linear(spec):
        return (HALF,) if half else ("linear",)
    if is_depthwise(spec, lanes):
        return ("depthwise",)
    if spec.groups > 1 and (spec.out_channels // spec.groups) % BLOCK:
        return ("grouped",)
    direct = HALF if half else "direct"
    if spec.in_channels >= FEWEST_CHANNELS and winograd_outputs(spec, 4):
        return (direct, "winograd2", "winograd4", *(("winograd6",) if _large(spec) else ()))
    return (direct,)


def _large(spec: ConvSpec) -> bool:
    """Whether F(6×6, 3×3) may pay."""
    outputs = winograd_outputs(spec, SIX)
    return outputs is not None and spec.batch * math.prod(winograd_tiles(spec, outputs)) >= FEWEST_SIX_TILES


def _by_shorts(spec: ConvSpec, lanes: int) -> bool:
    """Whether Winograd's algorithm in 16-bit integers may pay: vectors of 4 lanes mean a CPU that multiplies them no faster
    than it sums products of bytes, or one with too few registers."""
    return (
        lanes >= 2 * QUAD
        and spec.kernel == (3, 3)
        and min(spec.in_channels, spec.out_channels) >= FEWEST_BYTES
        and spec.batch * math.prod(winograd_tiles(spec, (4, 4))) >= FEWEST_BYTE_TILES
        and winograd_outputs(spec, 4) is not None
    )


def _by_few(spec: ConvSpec, lanes: int) -> bool:
    """Whether the groups are too small to fill the vectors of a direct kernel."""
    return is_depthwise(spec, lanes) or (spec.groups > 1 and (spec.out_channels // spec.groups) % BLOCK > 0)


def cheapest(spec: ConvSpec, lanes: int = BLOCK, together: int = 1, *, half_rate: bool = False) -> str:
    """The name of the algorithm that the rule takes; see `cycles`."""
    possible = candidates(spec, lanes)
    if lanes == BLOCK and not half_rate:
        possible = tuple(name for name in possible if WINOGRAD.get(name) != SIX)
    if len(possible) == 1:
        return possible[0]
    return min(possible, key=lambda name: cycles(spec, name, lanes, together, half_rate=half_rate))


def compact(spec: ConvSpec, lanes: int = BLOCK) -> str:
    """The algorithm that reads the fewest bytes of weights, for those that come from a disk: Winograd's take four times as
    many, and save less than that on all but the fastest disks."""
    return candidates(spec, lanes)[0]


def cycles(spec: ConvSpec, algorithm: str, lanes: int = BLOCK, together: int = 1, *, half_rate: bool = False) -> float:
    """An estimate in cycles of a core that multiplies 16 floats per cycle, per image, with vectors of so many ``lanes``;
    only ratios matter. ``half_rate``: these cycles are clocks; without it they are half of one. ``together``: products of
    each lane of an instruction in direct convolution of 16 bits, 1 or `TOGETHER`.

    Winograd's weights are read once for each set of tiles. Where weights of 16 bits are widened, that costs what half the
    bytes save.
    """
    line = HALF_RATE if half_rate else 1.0
    products = spec.in_channels * -(-spec.out_channels // QUAD) * QUAD / BLOCK
    if algorithm in (QUANTIZED, QUANTIZED_WINOGRAD):
        return _byte_cycles(spec, algorithm, products)
    outputs = _outputs(spec, algorithm)
    if outputs is None:
        lines = spec.kernel[0] * spec.kernel[1] * products / (together if algorithm == HALF else 1)
        return spec.out_height * spec.out_width * lines + line * _reading(lines)
    elements = winograd_elements(spec, outputs)
    down, across = winograd_tiles(spec, outputs)
    into, back = TRANSFORM_CYCLES.get(lanes, TRANSFORM_CYCLES[BLOCK])[max(outputs)]
    transforms = down * across * elements * (into * blocks(spec.in_channels) + back * blocks(spec.out_channels))
    product, read = WINOGRAD_CYCLES.get(lanes, WINOGRAD_CYCLES[BLOCK])
    if max(outputs) == SIX:
        product *= SIX_CYCLES.get(lanes, SIX_CYCLES[BLOCK])
    sets = _number_of_sets(spec, elements, spec.batch * down * across)
    reading = line * read * sets * _reading(elements * products) / spec.batch
    return product * down * across * elements * products + transforms + reading


def _byte_cycles(spec: ConvSpec, algorithm: str, products: float) -> float:
    """`cycles` of 8-bit convs: four products of bytes in the time of one of fp32, or two of 16-bit integers."""
    if algorithm == QUANTIZED:
        taps = spec.kernel[0] * spec.kernel[1]
        return spec.out_height * spec.out_width * taps * products / 4 + _reading(taps * products / 4)
    outputs = (4, 4)
    elements = winograd_elements(spec, outputs)
    down, across = winograd_tiles(spec, outputs)
    into, back = SHORT_TRANSFORM_CYCLES
    transforms = down * across * elements * (into * blocks(spec.in_channels) + back * blocks(spec.out_channels))
    sets = _number_of_sets(spec, elements, spec.batch * down * across)
    reading = WINOGRAD_CYCLES[BLOCK][1] * sets * _reading(elements * products / 2) / spec.batch
    return WINOGRAD_CYCLES[BLOCK][0] * down * across * elements * products / 2 + transforms + reading


def packed_bytes(spec: ConvSpec, algorithm: str) -> int:
    """At most so many bytes hold a conv's weights and bias as this algorithm reads them."""
    f, c = spec.out_channels // spec.groups, spec.in_channels // spec.groups
    if algorithm == QUANTIZED_WINOGRAD:
        return blocks(f) * BLOCK * (-(-c // 2) * winograd_elements(spec, (4, 4)) + 2) * BYTES_PER_ELEMENT
    if algorithm == QUANTIZED:
        # Groups of 4 input channels, one block of output channels for each group; beside them bias and multiplier.
        wide = spec.out_channels if spec.depthwise else spec.groups * blocks(f) * BLOCK
        return blocks(wide) * BLOCK * (-(-c // QUAD) * QUAD * spec.kernel[0] * spec.kernel[1] + 3 * BYTES_PER_ELEMENT)
    depth, lanes = c * spec.kernel[0] * spec.kernel[1], blocks(spec.out_channels) * BLOCK
    if algorithm == HALF:  # input channels in pairs, but for one group of a depthwise conv, whose weights are in fp32
        pairs = (c if max(c, f) <= DEPTHWISE_SIZES[-1] else -(-c // 2)) * spec.kernel[0] * spec.kernel[1]
        return BYTES_PER_ELEMENT * spec.groups * blocks(f) * BLOCK * (pairs + 1)
    outputs = _outputs(spec, algorithm)
    if outputs is not None:
        depth = winograd_elements(spec, outputs) * c
    elif algorithm == "linear":
        depth = blocks(c) * BLOCK * spec.kernel[0] * spec.kernel[1]
    elif algorithm != "depthwise":
        lanes = spec.groups * blocks(f) * BLOCK
    return BYTES_PER_ELEMENT * lanes * (depth + 1)


def scratch_elements(spec: ConvSpec, algorithm: str) -> int:
    """At most so many float32 are what one thread of this algorithm works on between its steps."""
    outputs = _outputs(spec, algorithm)
    if outputs is not None:
        elements = winograd_elements(spec, outputs)
        down, across = winograd_tiles(spec, outputs)
        # The sets themselves are not listed: a spec from the wire may have billions of tiles.
        longest = min(spec.batch * down * across, _most_tiles(spec, elements) * 3 // 2)
        return elements * sum(odd_lines(blocks(c) * longest) * BLOCK for c in (spec.in_channels, spec.out_channels))
    if algorithm == "grouped":
        wide = spec.groups * blocks(spec.out_channels // spec.groups) + blocks(spec.out_channels)
        return spec.batch * wide * BLOCK * spec.out_height * spec.out_width
    return 0


def odd_lines(lines: int) -> int:
    """An odd number of cache lines, at least ``lines``: or elements would all fall into one set of the cache."""
    return lines | 1


def _number_of_sets(spec: ConvSpec, elements: int, tiles: int) -> int:
    most = _most_tiles(spec, elements)
    return 1 if tiles <= most * 3 // 2 else -(-tiles // most)


def _most_tiles(spec: ConvSpec, elements: int) -> int:
    """In one set; half of it more where no second set follows."""
    per_tile = BYTES_PER_ELEMENT * elements * BLOCK * (blocks(spec.in_channels) + blocks(spec.out_channels))
    least = LEAST_TILES if elements <= LARGE_TILE else LEAST_LARGE_TILES
    return max(least, SCRATCH_BYTES // per_tile // 14 * 14)


def _outputs(spec: ConvSpec, algorithm: str) -> tuple[int, int] | None:
    m = 4 if algorithm == QUANTIZED_WINOGRAD else WINOGRAD.get(algorithm)
    return None if m is None else winograd_outputs(spec, m)


def _reading(lines: float) -> float:
    """Cycles to read so many lines of weights once."""
    return next(lines * each for limit, each in LINE_CYCLES if lines * 64 <= limit)
