"""Which algorithm computes a ConvSpec."""

from __future__ import annotations

from typing import Any, Protocol

from fogconv.geometry import ConvSpec
from fogconv.kernels.blocked import Array, Blocked, Margin
from fogconv.kernels.direct import DirectKernel
from fogconv.kernels.isa import Isa
from fogconv.kernels.scratch import Scratch


class Kernel(Protocol):
    """One algorithm with its packed weights, for one ConvSpec."""

    algorithm: str
    spec: ConvSpec

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

    def numbers(
        self, x: Blocked, out: Blocked, residual: Blocked | None, thread: int, threads: int
    ) -> tuple[Any, list[int], tuple[object, ...]]:
        """For one thread's share: a compiled function, the numbers to call it with, what must be kept alive."""
        ...


def choose(spec: ConvSpec, isa: Isa, strict: bool) -> str:
    """The name of the algorithm."""
    return "direct"


def prepare_kernel(
    algorithm: str, spec: ConvSpec, isa: Isa, weight: Array, bias: Array | None, activation: str | None, scratch: Scratch
) -> Kernel:
    """Pack the weights and compile the code of one algorithm."""
    return DirectKernel.prepare(spec, isa, weight, bias, activation)
