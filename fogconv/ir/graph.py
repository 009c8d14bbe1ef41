"""LayerGraph: a CNN as the planner sees it. No torch here; `fogconv.frontend.torch.export` makes one from a torch model.

A Tensor is a map (N, C, H, W) in fp32. A layer reads and writes tensors by number; every tensor is written once, and the
layers stand in an order in which everything is written before it is read. A linear layer is a conv whose
kernel covers its whole input, so that it splits by the same rules. What fogconv's workers don't know is a Host layer:
it runs in torch on the master, between gathered inputs and outputs that are sent on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fogconv.ir.arrays import Array
from fogconv.ir.geometry import ConvSpec, PoolSpec, Region

ACTIVATIONS = ("relu", "relu6", "silu", "hardswish", "sigmoid", "hardsigmoid")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A map (batch, channels, height, width); ``name`` is for people."""

    name: str
    batch: int
    channels: int
    height: int
    width: int

    @property
    def region(self) -> Region:
        return Region.whole(self.channels, self.height, self.width)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (self.batch, self.channels, self.height, self.width)

    @property
    def elements(self) -> int:
        return self.batch * self.channels * self.height * self.width


@dataclass(frozen=True, slots=True)
class Conv:
    """target = activation(conv(source) + bias + residual). ``weight`` and ``bias`` are keys of ``LayerGraph.weights``.

    ``linear`` marks a fully connected layer (kernel = the whole input, no padding, output 1×1).
    """

    name: str
    source: int
    target: int
    spec: ConvSpec
    weight: str
    bias: str | None = None
    activation: str | None = None
    residual: int | None = None
    linear: bool = False


@dataclass(frozen=True, slots=True)
class Pool:
    name: str
    source: int
    target: int
    spec: PoolSpec


@dataclass(frozen=True, slots=True)
class GlobalPool:
    """target (N, C, 1, 1) = the mean over rows and columns."""

    name: str
    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Add:
    """target = activation(sum of the sources), all of one shape."""

    name: str
    sources: tuple[int, ...]
    target: int
    activation: str | None = None


@dataclass(frozen=True, slots=True)
class Affine:
    """target = activation(source · scale + shift), scale and shift per channel (keys of (C,) arrays) or absent."""

    name: str
    source: int
    target: int
    scale: str | None = None
    shift: str | None = None
    activation: str | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """target = source · gate, the gate being (N, C, 1, 1): squeeze-and-excitation."""

    name: str
    source: int
    gate: int
    target: int


@dataclass(frozen=True, slots=True)
class Concat:
    """target = the sources one after the other along the channels."""

    name: str
    sources: tuple[int, ...]
    target: int


@dataclass(frozen=True, slots=True)
class Slice:
    """target = the channels from ``start`` on, as many as the target has."""

    name: str
    source: int
    target: int
    start: int


@dataclass(frozen=True, slots=True)
class Shuffle:
    """Channel shuffle: channel i·(C/groups)+j of the source becomes channel j·groups+i of the target."""

    name: str
    source: int
    target: int
    groups: int


@dataclass(frozen=True, slots=True)
class Host:
    """Torch operations on the master: reads and writes maps by number.

    ``call(values, *maps)`` gets one NCHW array per read and returns one per write; ``values`` is a dict, new for each
    inference, in which calls keep what is not a map (token sequences, masks) for later calls.
    """

    name: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    call: Callable[..., Sequence[Array]] = field(compare=False, repr=False)
    ops: tuple[str, ...] = ()


Layer = Conv | Pool | GlobalPool | Add | Affine | Gate | Concat | Slice | Shuffle | Host


def reads(layer: Layer) -> tuple[int, ...]:
    """The numbers of the tensors that a layer reads, the residual included."""
    match layer:
        case Host():
            return layer.reads
        case Add() | Concat():
            return layer.sources
        case Gate():
            return (layer.source, layer.gate)
        case Conv() if layer.residual is not None:
            return (layer.source, layer.residual)
        case _:
            return (layer.source,)


def writes(layer: Layer) -> tuple[int, ...]:
    """The numbers of the tensors that a layer writes."""
    return layer.writes if isinstance(layer, Host) else (layer.target,)


@dataclass(frozen=True)
class LayerGraph:
    """``input`` and ``output`` are tensor numbers; ``output_shape`` is the shape the model gives its result in (a head's
    (N, classes, 1, 1) map goes out as (N, classes)). ``weights`` holds every array by its key."""

    name: str
    tensors: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    input: int
    output: int
    output_shape: tuple[int, ...]
    weights: Mapping[str, Array] = field(compare=False, repr=False)
    info: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def convs(self) -> tuple[Conv, ...]:
        """The convolutions that the paper's scheme may distribute (linear layers are not among them)."""
        return tuple(layer for layer in self.layers if isinstance(layer, Conv) and not layer.linear)
