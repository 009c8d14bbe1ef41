"""Pooling: over windows, and over whole maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fogconv.ir.geometry import MapSpec, PoolSpec
from fogconv.ir.layers.operator import FromMap, Needs
from fogconv.ir.layers.tensor import Tensor
from fogconv.ir.shard import Work, pool_input


@dataclass(frozen=True, slots=True)
class Pool(FromMap):
    name: str
    source: int
    target: int
    spec: PoolSpec

    @property
    def reaches(self) -> bool:
        return self.spec.kernel[0] > 1

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        return ((self.source, pool_input(self.spec, work.output)),)

    def computes(self, tensors: Sequence[Tensor], work: Work) -> MapSpec:
        batch = tensors[self.target].batch
        sizes: dict[str, Any] = {"kernel": self.spec.kernel, "stride": self.spec.stride}
        return MapSpec.of("pool", work.output, batch, **sizes, element=self.element(tensors))


@dataclass(frozen=True, slots=True)
class GlobalPool(FromMap):
    """target (N, C, 1, 1) = the mean over rows and columns."""

    by_sums: ClassVar[bool] = True

    name: str
    source: int
    target: int

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        whole = tensors[self.source].region.with_channels(work.output.channels)
        return ((self.source, work.summed(whole)),)

    def computes(self, tensors: Sequence[Tensor], work: Work) -> MapSpec:
        [(_, region)] = self.needs(tensors, work)
        return MapSpec.of("globalpool", region, tensors[self.target].batch, element=self.element(tensors))
