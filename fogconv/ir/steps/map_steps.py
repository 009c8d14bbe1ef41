"""Steps that compute on buffers, each with its own kernel."""

from __future__ import annotations

from typing import Annotated

import msgspec

from fogconv.ir.geometry import ConvSpec, MapSpec, PoolSpec, Region, Taps
from fogconv.ir.steps.step import Step

Activation = Annotated[str, msgspec.Meta(max_length=120)]
"""One of the workers' formulas of one input (`fogconv.kernels.codegen.formulas`), with its numbers if it takes any: "relu",
"leaky_relu(0.1)". Unknown ones are refused when the step is bound."""


class Copy(Step, frozen=True, tag=True):
    """Copy (or add) a region of one buffer into another; ``shift`` is added to the channels on the way."""

    source: int
    region: Region
    target: int
    shift: int = 0
    accumulate: bool = False

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("copy", self.region, batch, sources=2 if self.accumulate else 1)


class Permute(Step, frozen=True, tag=True):
    """Copy single channels: the target region's k-th channel is the source region's ``channels[k]``-th."""

    source: int
    source_region: Region
    target: int
    target_region: Region
    channels: tuple[int, ...]

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("permute", self.target_region, batch)


class Conv(Step, frozen=True, tag=True):
    """``spec`` at the size of this shard: source region in, target region out.

    The source region is clipped to the image; ``spec.padding`` is the padding at the image's border. A residual of the
    target region's shape is added before the activation.

    An 8-bit source is multiplied by int8 weights, with an int32 bias, into exact int32 sums; these are the result where the
    target is of int32, and are rescaled by ``scales``, the weights' (f,) in float32, where it is not.

    A 16-bit source is multiplied by weights of the same 16 bits into sums of fp32; bias and activation are in fp32, and the
    result is rounded where the target has 16 bits.
    """

    spec: ConvSpec
    weight: str
    bias: str | None
    activation: Activation | None
    source: int
    source_region: Region
    target: int
    target_region: Region
    residual: int | None = None
    residual_region: Region | None = None
    scales: str | None = None

    def work(self, batch: int) -> ConvSpec:
        return self.spec


class Pool(Step, frozen=True, tag=True):
    """``spec`` is the whole layer's; rows and columns of the regions give the part that is computed here."""

    spec: PoolSpec
    source: int
    source_region: Region
    target: int
    target_region: Region

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("pool", self.target_region, batch, kernel=self.spec.kernel, stride=self.spec.stride)


class GlobalPool(Step, frozen=True, tag=True):
    """target = sum over the source region's rows and columns ÷ ``divisor`` (the whole map's H·W)."""

    source: int
    source_region: Region
    target: int
    target_region: Region
    divisor: int

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("globalpool", self.source_region, batch)


class Squares(Step, frozen=True, tag=True):
    """target = sum over the source region's rows and columns of (source − mean)² ÷ ``divisor`` (the whole map's H·W).

    The means' region has all channels of the groups, of ``per_group`` channels, in which the target's channels lie; the
    target's are those from the ``first`` on.
    """

    source: int
    source_region: Region
    mean: int
    mean_region: Region
    target: int
    target_region: Region
    per_group: int
    first: int
    divisor: int

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("globalpool", self.source_region, batch)


class Normalize(Step, frozen=True, tag=True):
    """target = activation((source − mean) ÷ √(squares + eps) · scale + shift); mean and squares as in Squares."""

    source: int
    source_region: Region
    mean: int
    mean_region: Region
    squares: int
    squares_region: Region
    target: int
    target_region: Region
    per_group: int
    first: int
    eps: float
    scale: str | None = None
    shift: str | None = None
    activation: Activation | None = None

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("affine", self.target_region, batch)


class AcrossChannels(Step, frozen=True, tag=True):
    """target = op over all channels of each pixel; the executor looks up the operator by ``op``."""

    op: str
    source: int
    source_region: Region
    target: int
    target_region: Region
    parameters: tuple[float, ...] = ()
    scale: str | None = None
    shift: str | None = None

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of(self.op, self.target_region, batch)


class Add(Step, frozen=True, tag=True):
    """target = activation(sum of the sources)."""

    sources: tuple[int, ...]
    source_regions: tuple[Region, ...]
    target: int
    target_region: Region
    activation: Activation | None = None

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("add", self.target_region, batch, sources=len(self.sources))


class Elementwise(Step, frozen=True, tag=True):
    """target = op(sources, constant, parameters), element by element; the executor looks up the formula by ``op``.

    Regions of length 1 along an axis count everywhere along it. The constant is the key of an array (channels, rows,
    columns).
    """

    op: str
    sources: tuple[int, ...]
    source_regions: tuple[Region, ...]
    target: int
    target_region: Region
    parameters: tuple[float, ...] = ()
    constant: str | None = None

    def work(self, batch: int) -> MapSpec:
        operands = len(self.sources) + (self.constant is not None)
        return MapSpec.of(self.op, self.target_region, batch, sources=operands)


class Affine(Step, frozen=True, tag=True):
    """target = activation(source · scale + shift + residual); scale and shift are keys of arrays as long as
    the region's channels. The target may be the source."""

    source: int
    source_region: Region
    target: int
    target_region: Region
    scale: str | None = None
    shift: str | None = None
    activation: Activation | None = None
    residual: int | None = None
    residual_region: Region | None = None

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("affine", self.target_region, batch, sources=1 if self.residual is None else 2)


class Convert(Step, frozen=True, tag=True):
    """target = activation(source), from the one's precision to the other's.

    Sums of an 8-bit conv (int32) are rescaled by ``scales``, the conv's, and ``unit``, its source's scale.
    """

    source: int
    source_region: Region
    target: int
    target_region: Region
    scales: str | None = None
    unit: float = 1.0
    activation: Activation | None = None

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("convert", self.target_region, batch)


class Gate(Step, frozen=True, tag=True):
    """target = source · gate; the gate region is 1×1."""

    source: int
    source_region: Region
    gate: int
    gate_region: Region
    target: int
    target_region: Region

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("gate", self.target_region, batch)


class Resample(Step, frozen=True, tag=True):
    """target = weighted sums of the source region's rows and columns; ``fill`` where a row or a column has no tap. The taps
    are those of this part: inputs and outputs count from the regions' first."""

    source: int
    source_region: Region
    target: int
    target_region: Region
    rows: Taps
    columns: Taps
    fill: float = 0.0

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("resample", self.target_region, batch, kernel=(self.rows.most, self.columns.most))


class Interleave(Step, frozen=True, tag=True):
    """target's pixel (y, x) = pixel (y ÷ s, x ÷ t) of source (y mod s)·t + (x mod t), for ``factors`` (s, t) and whole
    layers; the sources' regions begin at the target region's first row and column ÷ (s, t)."""

    sources: tuple[int, ...]
    source_regions: tuple[Region, ...]
    target: int
    target_region: Region
    factors: tuple[int, int]

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("interleave", self.target_region, batch, sources=len(self.sources), stride=self.factors)


MapStep = (
    Copy
    | Permute
    | Conv
    | Pool
    | GlobalPool
    | Squares
    | Normalize
    | AcrossChannels
    | Add
    | Affine
    | Elementwise
    | Gate
    | Resample
    | Interleave
    | Convert
)
"""Steps that compute on buffers, each with its own kernel."""
