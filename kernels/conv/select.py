"""Which algorithm computes a ConvSpec: the measured choice of this machine, or else a cost rule.

condition                                             algorithm
    the kernel covers the whole unpadded input        linear
1 in and 1 out channel per group; or 2, 4, 8 of each  depthwise
groups whose output channels split a block of 16      grouped
5×5, 1×3 … 7×1, stride 1, one group                   direct, winograd2 or winograd4: the cheapest by `cycles`
3×3, stride 1, one group                              the same, or winograd6 where there are at least 64 tiles of 6×6
anything else, and all that is "strict"               direct
16 bits: where floats are linear or direct            half: direct, from weights of 16 bits

The rule is that of `fogconv.ir.memory.algorithm`, by which the planner counts memory, too.

The largest errors in fp32 against float64, as shares of the largest output, and what the tests allow (tests/kernels/conv).
Found: 3×3, maps of 56×56 and 112×112, 64 to 512 input channels; numbers that are normal, cut off below 0, all positive,
smooth over the map, or fifth powers of normal ones.

algorithm                                             found    allowed
    direct, depthwise, grouped, linear                4.5e-6   5e-6
    winograd2, of 3×3; of other kernels               1.7e-6   5e-6; 5e-5
    winograd4                                         1.7e-5   5e-5
    winograd6                                         3.7e-5   1e-4
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from fogconv.errors import KernelError
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import BLOCK, ConvSpec
from fogconv.ir.memory import algorithm as rule
from fogconv.ir.memory.algorithm import is_linear
from fogconv.ir.precision.elements import HALVES
from fogconv.ir.precision.halves import floats
from fogconv.kernels.codegen.isa import Isa, half_rate
from fogconv.kernels.conv import depthwise
from fogconv.kernels.conv.direct import DirectKernel, lanes_for
from fogconv.kernels.conv.grouped import GroupedKernel
from fogconv.kernels.conv.halves import halves_isa, reads_of
from fogconv.kernels.conv.linear import LinearKernel
from fogconv.kernels.conv.tuning_table import tuned_algorithm
from fogconv.kernels.conv.winograd import WinogradKernel, form_of
from fogconv.kernels.maps.blocked import Blocked, Margin
from fogconv.kernels.maps.bound import Bound
from fogconv.kernels.maps.scratch import Scratch


class Kernel(Protocol):
    """One algorithm with its packed weights, for one ConvSpec."""

    @property
    def algorithm(self) -> str: ...

    @property
    def exact(self) -> bool:
        """Whether ``unpack`` gives back the weights exactly as they were; else it raises KernelError."""
        ...

    @property
    def spec(self) -> ConvSpec: ...

    @property
    def wanted_margin(self) -> Margin: ...

    @property
    def weight_bytes(self) -> int: ...

    def at(self, spec: ConvSpec, scratch: Scratch | None = None) -> Kernel:
        """The same algorithm and weights for another input size, padding or batch, and with another scratch."""
        ...

    def moved(self, place: Callable[[Array], Array]) -> Kernel:
        """The same layer with its packed weights in the array that ``place`` gives for them, of equal content; the bias
        stays."""
        ...

    def unpack(self) -> tuple[Array, Array | None]:
        """The original weight and bias. Raises KernelError where the packed weights can't be turned back."""
        ...

    def warm(self, threads: int) -> None:
        """Compile what ``bind`` will need for so many threads."""
        ...

    def bind(self, x: Blocked, out: Blocked, residual: Blocked | None, thread: int, threads: int) -> Bound:
        """The call that does one thread's share."""
        ...


def candidates(spec: ConvSpec, isa: Isa) -> tuple[str, ...]:
    """The algorithms that can run a spec and might be the fastest for it, the most general first."""
    return rule.candidates(spec, isa.vector_length)


def choose(spec: ConvSpec, isa: Isa, strict: bool) -> str:
    """The name of the algorithm."""
    possible = candidates(spec, isa)
    if len(possible) == 1 or strict:
        return possible[0]
    measured = tuned_algorithm(spec, isa)
    if measured in possible:
        return measured
    return rule.cheapest(spec, isa.vector_length, together(spec, isa), half_rate=half_rate(isa))


def together(spec: ConvSpec, isa: Isa) -> int:
    """Products per lane of an instruction in direct convolution (see `fogconv.ir.memory.algorithm.cycles`)."""
    return rule.TOGETHER if spec.element in HALVES and reads_of(spec, isa) == spec.element else 1


def reads_narrow(spec: ConvSpec) -> bool:
    """Whether a narrow map is the fastest input for the spec (see `fogconv.kernels.maps.blocked`), whatever is chosen."""
    return lanes_for(spec) != BLOCK and not is_linear(spec)


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
    """Pack the weights, in fp32 or 16 bits, and compile the code of one algorithm. Raises KernelError for one that can't
    run the spec."""
    if algorithm == rule.HALF:
        # In fp32 are those of depthwise convs, one group of which may be cut out.
        reads = "fp32" if weight.dtype == np.float32 else reads_of(spec, isa)
        return DirectKernel.prepare(spec, halves_isa(isa, reads), weight, bias, activation, reads=reads)
    form = form_of(spec, rule.WINOGRAD[algorithm]) if algorithm in rule.WINOGRAD else None
    if weight.dtype != np.float32 and form is None:  # Winograd's own widens them part by part
        weight = floats(weight)
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
