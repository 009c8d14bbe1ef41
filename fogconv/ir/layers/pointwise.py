"""What is computed element by element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fogconv.ir.geometry import MapSpec
from fogconv.ir.layers.operator import FromMap, FromMaps, Needs, ToMap
from fogconv.ir.layers.tensor import Tensor
from fogconv.ir.shard import Work


@dataclass(frozen=True, slots=True)
class Add(FromMaps):
    """target = activation(sum of the sources), all of one shape."""

    name: str
    sources: tuple[int, ...]
    target: int
    activation: str | None = None


@dataclass(frozen=True, slots=True)
class Affine(FromMap):
    """target = activation(source · scale + shift), scale and shift per channel (keys of (C,) arrays) or absent."""

    weight_keys: ClassVar[tuple[str, ...]] = ("scale", "shift")

    name: str
    source: int
    target: int
    scale: str | None = None
    shift: str | None = None
    activation: str | None = None


@dataclass(frozen=True, slots=True)
class Elementwise(FromMaps):
    """target = op(sources, constant, parameters), element by element.

    ``op`` names one of the workers' formulas (`fogconv.kernels.codegen.formulas`). The sources are of the target's shape,
    or of length 1 along some of channels, rows and columns: then that one value counts everywhere. So is the constant, the
    key of an array (C, H, W).
    """

    weight_keys: ClassVar[tuple[str, ...]] = ("constant",)

    name: str
    op: str
    sources: tuple[int, ...]
    target: int
    parameters: tuple[float, ...] = ()
    constant: str | None = None

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        return tuple((source, work.output.cut_to(tensors[source].region)) for source in self.sources)

    def computes(self, tensors: Sequence[Tensor], work: Work) -> MapSpec:
        operands = len(self.sources) + (self.constant is not None)
        element = self.element(tensors)
        return MapSpec.of(self.kind, work.output, tensors[self.target].batch, sources=operands, element=element)

    @property
    def kind(self) -> str:
        return self.op

    @property
    def activation(self) -> str:
        """The operator as another layer's activation: "mish", "clip(-1.0, 6.0)"."""
        numbers = ", ".join(map(repr, self.parameters))
        return f"{self.op}({numbers})" if numbers else self.op


@dataclass(frozen=True, slots=True)
class Gate(ToMap):
    """target = source · gate, the gate being (N, C, 1, 1): squeeze-and-excitation."""

    name: str
    source: int
    gate: int
    target: int

    @property
    def reads(self) -> tuple[int, ...]:
        return (self.source, self.gate)

    def needs(self, tensors: Sequence[Tensor], work: Work) -> Needs:
        gate = tensors[self.gate].region.with_channels(work.output.channels)
        return ((self.source, work.output), (self.gate, gate))

    def computes(self, tensors: Sequence[Tensor], work: Work) -> MapSpec:
        return MapSpec.of("gate", work.output, tensors[self.target].batch, element=self.element(tensors))


@dataclass(frozen=True, slots=True)
class Convert(FromMap):
    """target = source, in the target's precision: quantising, dequantising, and from one scale to another."""

    name: str
    source: int
    target: int
