"""What puts channels elsewhere, and computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

from fogconv.ir.geometry import MapSpec
from fogconv.ir.layers.operator import FromMap, FromMaps, Needs
from fogconv.ir.layers.tensor import Tensor
from fogconv.ir.shard import Work


@dataclass(frozen=True, slots=True)
class Concat(FromMaps):
    """target = the sources one after the other along the channels."""

    relabels: ClassVar[bool] = True

    name: str
    sources: tuple[int, ...]
    target: int

    def pieces(self, tensors: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
        starts = accumulate((tensors[source].channels for source in self.sources), initial=0)
        return tuple(zip(self.sources, starts, strict=False))

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        return ()


@dataclass(frozen=True, slots=True)
class Slice(FromMap):
    """target = the channels from ``start`` on, as many as the target has."""

    relabels: ClassVar[bool] = True

    name: str
    source: int
    target: int
    start: int

    def pieces(self, tensors: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
        return ((self.source, -self.start),)

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        return ()


@dataclass(frozen=True, slots=True)
class Shuffle(FromMap):
    """Channel shuffle: channel i·(C/groups)+j of the source becomes channel j·groups+i of the target."""

    by_channels: ClassVar[bool] = False

    name: str
    source: int
    target: int
    groups: int

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        return ((self.source, work.output.with_channels(tensors[self.source].region.channels)),)

    def computes(self, tensors: Sequence[Tensor], work: Work) -> MapSpec:
        return MapSpec.of("permute", work.output, tensors[self.target].batch, element=self.element(tensors))
