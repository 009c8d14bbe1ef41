"""Which tiles cover an output map: a cost rule, in cycles of the innermost loop.

A tile of P pixels × V vectors needs P·V + V + 1 registers: sums, weights and one broadcast value. The rule knows three
limits of a core, per input channel:

    multiplications    P·V / 2      two fused multiply-adds per cycle
    loads              (P + V) / 2  two loads per cycle
    latency            4            a sum can take its next product after four cycles

This fits AVX-512 and AVX2 servers; on a core that multiplies at half the rate (Zen 4) the shape matters less, and
`fixed_vectors` says what was measured there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby

from fogconv.ir.geometry import NARROW
from fogconv.kernels.codegen.isa import Isa, half_rate
from fogconv.kernels.codegen.quads import QUAD

TILE_OVERHEAD = 40.0
"""Cycles to start and to store a tile."""

STREAM_BYTES_PER_CYCLE = 24.0
"""The bandwidth of the second-level cache for weights."""

L1_BYTES = 24 * 1024

HALF_RATE_VECTORS, HALF_RATE_CHANNELS = 3, 1024
"""Where a core multiplies 16 floats per clock, not 32: vectors of output channels per group, for up to so many input
channels. Over the two vectors that the cost rule finds there, three take 1.2 % less time in 1×1 convs of up to 300 input
channels (the geometric mean over 29 of four nets; 64×56×56→256 up to 8 %), 0 to 6 % less in 3×3 ones of stride 2: they read
the input less often (Zen 4, the fastest of 40 runs in turns). With more channels they take 1 % more, and so does a first
7×7. Four vectors take 1 % more than two.

What is left over the bound of one vector per clock does not come from the cut. Two groups of two vectors for three and one
take as long (0.99 to 1.01 in nine 1×1 convs), and with weights and maps in large pages all of these take 1.03 to 1.06 clocks
per vector. A part of the input channels at a time, so that the second-level cache holds a group's weights, can't gain: 3×3
convs of stride 2 on 14×14 take 1.05 to 1.06 with 64, 128, 256 and 512 channels alike, whose groups have 111 to 885 KB."""


@dataclass(frozen=True, slots=True)
class Place:
    """One tile's place on the output map."""

    row: int
    column: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Cover:
    """A map of height × width cut into bands of rows and pieces of columns (sizes, in order)."""

    bands: tuple[int, ...]
    pieces: tuple[int, ...]

    def places(self) -> Iterator[Place]:
        row = 0
        for rows in self.bands:
            column = 0
            for columns in self.pieces:
                yield Place(row, column, rows, columns)
                column += columns
            row += rows

    @property
    def shapes(self) -> frozenset[tuple[int, int]]:
        """The distinct (rows, columns)."""
        # Of a large map there are ten thousand tiles, of four shapes at most.
        return frozenset((rows, columns) for rows in set(self.bands) for columns in set(self.pieces))


@dataclass(frozen=True, slots=True)
class Pass:
    """``count`` groups of ``vectors`` vectors of ``vl`` output channels each, from channel ``first`` on, over one cover.

    ``vl`` is 4 for quads (see `cut`), else the instruction set's.
    """

    first: int
    vectors: int
    vl: int
    count: int
    cover: Cover

    @property
    def lanes(self) -> int:
        """Output channels per group."""
        return self.vectors * self.vl


def most_pixels(isa: Isa, vectors: int) -> int:
    """The largest tile that stays in registers, by the number of vectors of output channels.

    One pixel fewer than the registers would hold in three cases, where LLVM's schedule spills
    (`tests/kernels/codegen/test_assembly.py`).
    """
    if isa.pixels:
        return isa.pixels[vectors - 1]
    if isa.name == "neon":  # inputs are held as vectors as well
        return {1: 12, 2: 10, 3: 7, 4: 6}[vectors]
    if isa.registers > 16:
        return {1: 28, 2: 14, 3: 8, 4: 6}[vectors]
    return {1: 9, 2: 6, 3: 3, 4: 2}[vectors]


def largest_tile(isa: Isa, vectors: int, depth: int) -> int:
    """The most pixels of a tile that sums over so many products.

    NEON's smaller tiles start and end in the shade of their neighbours, and leave the registers alone that a function must
    keep. Larger ones read the weights less often, which pays where they come from the second-level cache.
    """
    most = most_pixels(isa, vectors)
    if isa.name == "neon" and depth * 4 * isa.vector_length * vectors <= L1_BYTES:
        return min(most, 16 // vectors)
    return most


def split_evenly(length: int, longest: int) -> tuple[int, ...]:
    """As few pieces as possible, none longer than ``longest``, as equal as possible, the longer ones first."""
    pieces = -(-length // longest)
    short, longer = divmod(length, pieces)
    return (short + 1,) * longer + (short,) * (pieces - longer)


@cache
def best_cover(isa: Isa, height: int, width: int, vectors: int, depth: int) -> tuple[Cover, float]:
    """The cheapest cover for sums over ``depth`` products, and its cost in cycles."""
    most = largest_tile(isa, vectors, depth)
    best: tuple[float, Cover] | None = None
    for rows in range(1, min(height, most) + 1):
        pieces = split_evenly(width, most // rows)
        full, rest = divmod(height, rows)
        cover = Cover((rows,) * full + ((rest,) if rest else ()), pieces)
        cost = sum(
            pieces.count(columns)
            * (
                full * tile_cycles(rows * columns, vectors, depth, isa)
                + (tile_cycles(rest * columns, vectors, depth, isa) if rest else 0.0)
            )
            for columns in sorted(set(pieces))  # of a wide map there are hundreds, of two widths
        )
        if best is None or cost < best[0] * 0.995:
            best = (cost, cover)
    assert best is not None
    return best[1], best[0]


def tile_cycles(pixels: int, vectors: int, depth: int, isa: Isa) -> float:
    weight_bytes = 4 * isa.vector_length * vectors
    streamed = weight_bytes / STREAM_BYTES_PER_CYCLE if depth * weight_bytes > L1_BYTES else 0.0
    return TILE_OVERHEAD + depth * max(pixels * vectors / 2, (pixels + vectors) / 2, 4.0, streamed)


def group_sizes(isa: Isa) -> tuple[int, ...]:
    """How many vectors of output channels a tile may have. A group never splits a block of 16 channels unevenly."""
    return (1, 2, 3, 4) if isa.vector_length == 16 else (16 // isa.vector_length,)


def cut(isa: Isa, out_channels: int, depth: int, steps: int, vectors: int) -> tuple[tuple[int, int], ...]:
    """The groups of output channels, in order: (vectors, output channels per vector). ``vectors`` in each, then the rest.

    Where the last block of 16 has up to 12 channels left, these are quads, if that saves products: 21 output channels cost
    24 then, not 32. ``depth``: products per output; ``steps``: how many quads they are, or ``depth`` where there can be
    none. The map's size does not matter, because maps of all sizes share packed weights.
    """
    vl = isa.vector_length
    total, rest = divmod(out_channels, vl)
    quads = -(-rest // QUAD) if isa.quads else 0
    if quads * steps >= depth:
        quads = 0
    total += 1 if rest and not quads else 0
    count, smaller = divmod(total, vectors)
    return ((vectors, vl),) * count + (((smaller, vl),) if smaller else ()) + (((quads, QUAD),) if quads else ())


def fixed_vectors(isa: Isa, in_channels: int, out_channels: int) -> int | None:
    """The vectors of output channels per group of a direct convolution in fp32, where the cost rule is not to choose them.
    Channels are those of one group of the convolution."""
    if isa.vector_length != 16 or not half_rate(isa) or not NARROW < in_channels <= HALF_RATE_CHANNELS:
        return None
    return HALF_RATE_VECTORS if out_channels >= HALF_RATE_VECTORS * isa.vector_length else None


@cache
def plan_passes(
    isa: Isa, height: int, width: int, out_channels: int, depth: int, steps: int, vectors: int | None = None
) -> tuple[Pass, ...]:
    """All output channels in groups (see `cut`) of the cheapest size; ``vectors`` fixes it."""
    best: tuple[float, tuple[Pass, ...]] | None = None
    for size in group_sizes(isa) if vectors is None else (vectors,):
        passes, cost, first = [], 0.0, 0
        for (number, vl), groups in groupby(cut(isa, out_channels, depth, steps, size)):
            count = len(list(groups))
            cover, cycles = best_cover(isa, height, width, number, depth if vl == isa.vector_length else steps)
            passes.append(Pass(first, number, vl, count, cover))
            first += count * number * vl
            cost += cycles * count
        if best is None or cost < best[0] * 0.98:
            best = (cost, tuple(passes))
    assert best is not None
    return best[1]
