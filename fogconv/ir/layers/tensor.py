"""Tensor: a map that layers read and write."""

from __future__ import annotations

from dataclasses import dataclass

from fogconv.ir.geometry import Region
from fogconv.ir.precision.scale import FP32, Precision


@dataclass(frozen=True, slots=True)
class Tensor:
    """A map (batch, channels, height, width); ``name`` is for reports."""

    name: str
    batch: int
    channels: int
    height: int
    width: int
    precision: Precision = FP32

    @property
    def region(self) -> Region:
        return Region.whole(self.channels, self.height, self.width)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (self.batch, self.channels, self.height, self.width)

    @property
    def elements(self) -> int:
        return self.batch * self.channels * self.height * self.width
