"""Normalizations: over rows, columns and groups of channels, and over the channels of each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fogconv.errors import GeometryError
from fogconv.ir.geometry import MapSpec, Region, Span
from fogconv.ir.layers.operator import FromMap, Needs, ToMap
from fogconv.ir.layers.tensor import Tensor
from fogconv.ir.shard import Work


@dataclass(frozen=True, slots=True)
class Squares(ToMap):
    """target (N, C, 1, 1) = the mean over rows and columns of (source − mean)², the second pass of a normalization.

    ``mean`` (N, C, 1, 1) has each channel's mean; what counts is its mean over the channel's group, of ``groups``
    equal ones.
    """

    by_sums: ClassVar[bool] = True

    name: str
    source: int
    mean: int
    target: int
    groups: int

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.source, self.mean)

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        whole = tensors[self.source].region.with_channels(work.output.channels)
        means = whole_groups(tensors[self.mean].region, work.output.channels, self.groups)
        return ((self.source, work.summed(whole)), (self.mean, means))

    def computes(self, tensors: Sequence[Tensor], work: Work) -> MapSpec:
        region = self.needs(tensors, work)[0][1]
        return MapSpec.of("globalpool", region, tensors[self.target].batch)


@dataclass(frozen=True, slots=True)
class Normalize(ToMap):
    """target = activation((source − mean) ÷ √(squares + eps) · scale + shift): instance norm, group norm, and layer norm
    over channels, rows and columns.

    ``mean`` and ``squares`` (N, C, 1, 1) have one value per channel (see `GlobalPool` and `Squares`); what counts is their
    mean over the channel's group, of ``groups`` equal ones. Scale and shift, keys of (C,) arrays, may be absent.
    """

    weight_keys: ClassVar[tuple[str, ...]] = ("scale", "shift")

    name: str
    source: int
    mean: int
    squares: int
    target: int
    groups: int
    eps: float
    scale: str | None = None
    shift: str | None = None
    activation: str | None = None

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.source, self.mean, self.squares)

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        means = whole_groups(tensors[self.mean].region, work.output.channels, self.groups)
        return ((self.source, work.output), (self.mean, means), (self.squares, means))

    def computes(self, tensors: Sequence[Tensor], work: Work) -> MapSpec:
        return MapSpec.of("affine", work.output, tensors[self.target].batch)


def whole_groups(whole: Region, channels: Span, groups: int) -> Region:
    """All channels of the groups, of equal size, in which some channels lie."""
    size = len(whole.channels) // groups
    return whole.with_channels(Span(channels.start // size * size, -(-channels.stop // size) * size))


@dataclass(frozen=True, slots=True)
class AcrossChannels(FromMap):
    """target = op over all channels of each pixel: "softmax", "log_softmax", "layer_norm" (eps; scale and shift, keys of
    (C,) arrays, may be absent), "lrn" (size, alpha, beta, bias). See `fogconv.kernels.maps.across_channels`."""

    by_channels: ClassVar[bool] = False
    weight_keys: ClassVar[tuple[str, ...]] = ("scale", "shift")

    name: str
    op: str
    source: int
    target: int
    parameters: tuple[float, ...] = ()
    scale: str | None = None
    shift: str | None = None

    @property
    def kind(self) -> str:
        return self.op

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        if work.output.channels != tensors[self.target].region.channels:
            raise GeometryError(f"{self.op} is computed over all channels of a pixel, not over {work.output.channels}")
        return ((self.source, work.output),)
