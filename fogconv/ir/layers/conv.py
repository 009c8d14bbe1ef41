"""Convolutions, linear layers among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fogconv.ir.geometry import ConvSpec
from fogconv.ir.layers.operator import Needs, ToMap
from fogconv.ir.layers.tensor import Tensor
from fogconv.ir.shard import Shard, Work, conv_shard


@dataclass(frozen=True, slots=True)
class Conv(ToMap):
    """target = activation(conv(source) + bias + residual). ``weight`` and ``bias`` are keys of ``LayerGraph.weights``.

    ``activation`` is written as `Elementwise.activation` does.

    ``linear`` marks a fully connected layer (kernel = the whole input, no padding, output 1×1).

    Of an 8-bit source the weight is int8, the bias int32, and ``scales`` names the weight's scales (f,), float32; it has no
    residual then (see `fogconv.ir.precision.elements`).
    """

    by_channels: ClassVar[bool] = False
    weight_keys: ClassVar[tuple[str, ...]] = ("weight", "bias", "scales")

    name: str
    source: int
    target: int
    spec: ConvSpec
    weight: str
    bias: str | None = None
    activation: str | None = None
    residual: int | None = None
    linear: bool = False
    scales: str | None = None

    @property
    def reads(self) -> tuple[int, ...]:
        """The tensors that it reads, the residual included."""
        return (self.source,) if self.residual is None else (self.source, self.residual)

    @property
    def reaches(self) -> bool:
        return self.spec.kernel[0] > 1

    def shard(self, work: Work) -> Shard:
        return conv_shard(work.rank, self.spec, work.output, work.depth)

    def is_partial(self, work: Work) -> bool:
        return work.raw or self.shard(work).partial

    def computes(self, tensors: Sequence[Tensor], work: Work) -> ConvSpec:
        return self.shard(work).spec

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        shard = self.shard(work)
        read: Needs = ((self.source, shard.input),)
        if self.residual is not None and not (work.raw or shard.partial):
            read += ((self.residual, work.output),)
        return read
