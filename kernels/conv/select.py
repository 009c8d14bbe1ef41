"""Which algorithm computes a ConvSpec: the measured choice of this machine, or else a cost rule.

condition                                             algorithm
    the kernel covers the whole unpadded input        linear
1 in and 1 out channel per group; or 2, 4, 8 of each  depthwise
groups whose output channels split a block of 16      grouped
3×3, 5×5, 1×3 … 7×1, stride 1, one group              direct, winograd2 or winograd4: the cheapest by `cycles`
anything else, and all that is "strict"               direct
"""

from __future__ import annotations

from typing import Protocol

from fogconv.errors import KernelError
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import BLOCK, ConvSpec
from fogconv.kernels.codegen.isa import Isa
from fogconv.kernels.codegen.quads import QUAD
from fogconv.kernels.conv import depthwise
from fogconv.kernels.conv.direct import DirectKernel, lanes_for
from fogconv.kernels.conv.grouped import GroupedKernel
from fogconv.kernels.conv.linear import LinearKernel, is_linear
from fogconv.kernels.conv.tuning_table import tuned_algorithm
from fogconv.kernels.conv.winograd import WinogradKernel, form_of
from fogconv.kernels.maps.blocked import Blocked, Margin, blocks
from fogconv.kernels.maps.bound import Bound
from fogconv.kernels.maps.scratch import Scratch

FEWEST_CHANNELS = 12
"""The least number of input channels for which Winograd's transforms can pay."""

LINE_CYCLES = ((256 * 1024, 1.0), (8 * 1024 * 1024, 3.0), (1 << 62, 6.0))
"""Weights of up to so many bytes: cycles to read a line of 16 floats (from the second-level cache, the third, memory)."""

TRANSFORM_CYCLES = (4.0, 3.0)
"""Per element and block of 16 channels: the input's transform, the output's."""


class Kernel(Protocol):
    """One algorithm with its packed weights, for one ConvSpec."""

    @property
    def algorithm(self) -> str: ...

    @property
    def spec(self) -> ConvSpec: ...

    @property
    def wanted_margin(self) -> Margin: ...

    @property
    def weight_bytes(self) -> int: ...

    def at(self, spec: ConvSpec) -> Kernel:
        """The same algorithm and weights for another input size, padding or batch."""
        ...

    def unpack(self) -> tuple[Array, Array | None]:
        """The original weight and bias."""
        ...

    def warm(self, threads: int) -> None:
        """Compile what ``bind`` will need for so many threads."""
        ...

    def bind(self, x: Blocked, out: Blocked, residual: Blocked | None, thread: int, threads: int) -> Bound:
        """The call that does one thread's share."""
        ...


def candidates(spec: ConvSpec, isa: Isa) -> tuple[str, ...]:
    """The algorithms that can run a spec and might be the fastest for it, the most general first."""
    if is_linear(spec):
        return ("linear",)
    if depthwise.can_run(spec, isa):
        return ("depthwise",)
    if spec.groups > 1 and (spec.out_channels // spec.groups) % BLOCK:
        return ("grouped",)
    if spec.in_channels >= FEWEST_CHANNELS and form_of(spec, 4):
        return ("direct", "winograd2", "winograd4")
    return ("direct",)


def choose(spec: ConvSpec, isa: Isa, strict: bool) -> str:
    """The name of the algorithm."""
    possible = candidates(spec, isa)
    if len(possible) == 1 or strict:
        return possible[0]
    measured = tuned_algorithm(spec, isa)
    return measured if measured in possible else min(possible, key=lambda name: cycles(spec, name))


def reads_narrow(spec: ConvSpec) -> bool:
    """Whether a narrow map is the fastest input for the spec (see `fogconv.kernels.maps.blocked`), whatever is chosen."""
    return lanes_for(spec) != BLOCK and not is_linear(spec)


def cycles(spec: ConvSpec, algorithm: str) -> float:
    """An estimate in cycles of a core that multiplies 16 floats per cycle, per image; only ratios matter.

    Winograd's weights are read once for the whole batch.
    """
    out = blocks(spec.out_channels)
    products = spec.in_channels * -(-spec.out_channels // QUAD) * QUAD / BLOCK
    form = form_of(spec, int(algorithm[-1])) if algorithm.startswith("winograd") else None
    if form is None:
        taps = spec.kernel[0] * spec.kernel[1]
        return spec.out_height * spec.out_width * taps * products + _reading(taps * products)
    (mh, mw), elements = form.outputs, form.elements
    tiles = -(-spec.out_height // mh) * -(-spec.out_width // mw)
    into, back = TRANSFORM_CYCLES
    transforms = tiles * elements * (into * blocks(spec.in_channels) + back * out)
    return tiles * elements * products + transforms + _reading(elements * products) / spec.batch


def _reading(lines: float) -> float:
    """Cycles to read so many lines of weights once."""
    return next(lines * each for limit, each in LINE_CYCLES if lines * 64 <= limit)


def prepare_kernel(
    algorithm: str,
    spec: ConvSpec,
    isa: Isa,
    weight: Array,
    bias: Array | None,
    activation: str | None,
    scratch: Scratch,
    threads: int = 1,
) -> Kernel:
    """Pack the weights and compile the code of one algorithm. Raises KernelError for one that can't run the spec."""
    form = form_of(spec, int(algorithm[-1])) if algorithm in ("winograd2", "winograd4") else None
    if algorithm == "direct" and not (spec.groups > 1 and (spec.out_channels // spec.groups) % BLOCK):
        return DirectKernel.prepare(spec, isa, weight, bias, activation)
    if algorithm == "depthwise" and depthwise.can_run(spec, isa):
        return depthwise.DepthwiseKernel.prepare(spec, isa, weight, bias, activation)
    if algorithm == "grouped":
        return GroupedKernel.prepare(spec, isa, weight, bias, activation, scratch)
    if algorithm == "linear" and is_linear(spec):
        return LinearKernel.prepare(spec, weight, bias, activation, threads)
    if form is not None:
        return WinogradKernel.prepare(spec, isa, form, weight, bias, activation, scratch)
    raise KernelError(f"there is no algorithm {algorithm!r} for {spec}; there are {', '.join(candidates(spec, isa))}")
