"""The fully connected layer (`fogconv.kernels.linear`) as one of the algorithms of a convolution."""

from __future__ import annotations

from fogconv.errors import KernelError
from fogconv.geometry import ConvSpec
from fogconv.kernels.blocked import Array, Blocked, Margin
from fogconv.kernels.bound import Bound
from fogconv.kernels.grouped import nothing
from fogconv.kernels.linear import PreparedLinear, prepare_linear

KEPT_ELEMENTS = 4 << 20
"""Up to so many weights are kept as they came, for the layer that covers its input by chance: a 3×3 shard of a 3×3 conv."""


class LinearKernel:
    """A `PreparedLinear`, which splits itself over threads."""

    algorithm = "linear"

    def __init__(self, linear: PreparedLinear, original: tuple[Array, Array | None] | None) -> None:
        self._linear, self._original = linear, original

    @staticmethod
    def prepare(spec: ConvSpec, weight: Array, bias: Array | None, activation: str | None, threads: int) -> LinearKernel:
        linear = prepare_linear(spec, weight, bias, activation=activation, threads=threads)
        return LinearKernel(linear, (weight, bias) if weight.size <= KEPT_ELEMENTS else None)

    def at(self, spec: ConvSpec) -> LinearKernel:
        return LinearKernel(self._linear.at(spec), self._original)

    def unpack(self) -> tuple[Array, Array | None]:
        if self._original is None:
            size = self.spec.weight_elements
            raise KernelError(f"linear: {size} weights are kept only as packed; prepare the layer again for another size")
        return self._original

    @property
    def spec(self) -> ConvSpec:
        return self._linear.spec

    @property
    def wanted_margin(self) -> Margin:
        return Margin()

    @property
    def weight_bytes(self) -> int:
        return self._linear.weight_bytes

    def warm(self, threads: int) -> None:
        """Compile what ``bind`` needs, by binding maps of the right shapes."""
        spec = self.spec.with_batch(1)
        out = Blocked.empty(*spec.output_shape)
        for residual in (None, out):
            self._linear.at(spec).bind(Blocked.empty(*spec.input_shape), out, residual)

    def bind(self, x: Blocked, out: Blocked, residual: Blocked | None, thread: int, threads: int) -> Bound:
        return nothing if thread else self._linear.bind(x, out, residual)
