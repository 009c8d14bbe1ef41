"""Which algorithm computes a ConvSpec."""

from __future__ import annotations

from typing import Protocol

from fogconv.errors import KernelError
from fogconv.geometry import ConvSpec
from fogconv.kernels import depthwise
from fogconv.kernels.blocked import BLOCK, Array, Blocked, Margin
from fogconv.kernels.bound import Bound
from fogconv.kernels.direct import DirectKernel
from fogconv.kernels.grouped import GroupedKernel
from fogconv.kernels.isa import Isa
from fogconv.kernels.scratch import Scratch
from fogconv.kernels.winograd import WinogradKernel, form_of


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
        """Weight and bias as they were given."""
        ...

    def warm(self, threads: int) -> None:
        """Compile what ``bind`` will need for so many threads."""
        ...

    def bind(self, x: Blocked, out: Blocked, residual: Blocked | None, thread: int, threads: int) -> Bound:
        """The call that does one thread's share."""
        ...


def choose(spec: ConvSpec, isa: Isa, strict: bool) -> str:
    """The name of the algorithm."""
    if depthwise.can_run(spec, isa):
        return "depthwise"
    if spec.groups > 1 and (spec.out_channels // spec.groups) % BLOCK:
        return "grouped"
    return "direct"


def prepare_kernel(
    algorithm: str, spec: ConvSpec, isa: Isa, weight: Array, bias: Array | None, activation: str | None, scratch: Scratch
) -> Kernel:
    """Pack the weights and compile the code of one algorithm."""
    if algorithm == "depthwise":
        return depthwise.DepthwiseKernel.prepare(spec, isa, weight, bias, activation)
    if algorithm.startswith("winograd"):
        form = form_of(spec, int(algorithm[-1]))
        if form is None:
            raise KernelError(f"there is no {algorithm} for {spec}")
        return WinogradKernel.prepare(spec, isa, form, weight, bias, activation, scratch)
    if algorithm == "grouped":
        return GroupedKernel.prepare(spec, isa, weight, bias, activation, scratch)
    return DirectKernel.prepare(spec, isa, weight, bias, activation)
