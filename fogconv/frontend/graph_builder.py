"""GraphBuilder: a LayerGraph in the making: its maps, layers and weights. Every frontend's rules build with it.

A value of the model is one of

    Ref     a map (or the same elements in another shape: a flattened map, squeezed axes) that some layer wrote
    Const   a tensor that does not depend on the input: weights, and whatever is computed from them alone
    Hosted  anything else; the model's own framework computes it on the master
    Padded  a map with zeros around it that the following conv will add to its own padding
    Last    a map with its channels as the last axis: what ConvNeXt computes its layer norms and linear layers on
    Many    the results of an operation that has several

The methods under "Layers" add one layer each and return its result. They make its name unique.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fogconv.frontend import self_gates
from fogconv.frontend.fusion import AnyArray, Draft
from fogconv.ir.geometry import ConvSpec, PoolSpec, Taps
from fogconv.ir.graph import Port
from fogconv.ir.layers import (
    AcrossChannels,
    Add,
    Affine,
    Concat,
    Conv,
    Elementwise,
    Gate,
    GlobalPool,
    Interleave,
    Layer,
    Normalize,
    Pool,
    Resample,
    Shuffle,
    Slice,
    Squares,
    Tensor,
)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Ref:
    """The elements of map number ``tensor``, in this shape."""

    tensor: int
    shape: Shape


@dataclass(frozen=True)
class Const:
    """In the framework's own type: a torch tensor, or a numpy array."""

    value: Any


@dataclass(frozen=True)
class Hosted:
    pass


@dataclass(frozen=True)
class Padded:
    """``tensor`` with (top, bottom, left, right) zeros around it."""

    tensor: int
    padding: tuple[int, int, int, int]


@dataclass(frozen=True)
class Last:
    """The elements of map number ``tensor`` as (N, H, W, C). Rules that know it compute on the map; for others the framework
    permutes on the master."""

    tensor: int


@dataclass(frozen=True)
class Many:
    values: tuple[Ref | None, ...]


def picks(layer: Resample) -> bool:
    """Whether each of its outputs is an input unchanged."""
    return not (layer.rows.weights or layer.columns.weights) and min(*layer.rows.starts, *layer.columns.starts) >= 0


def as_sides(shape: Shape) -> tuple[int, int, int]:
    """Channels, rows and columns of a map for a value of this shape: a sequence (N, C, L) is a map of one row."""
    channels, *sides = shape[1:]
    return (channels, 1, sides[0]) if len(sides) == 1 else (channels, sides[0], sides[1])


Value = Ref | Const | Hosted | Padded | Last | Many


@dataclass(frozen=True)
class HostOp:
    """One hosted operation of the model, waiting to be grouped: the values that it reads, and those that it makes."""

    node: Any
    reads: tuple[Hashable, ...]
    makes: tuple[Hashable, ...]


def spread(one: Shape, other: Shape, result: Shape) -> bool:
    """Whether two 4-D operands of these shapes give the result where each may be of length 1 along axes of it."""
    return len(one) == len(other) == len(result) and all(
        {a, b} <= {1, n} and n in (a, b) for a, b, n in zip(one, other, result, strict=True)
    )


UNKNOWN = "workers have no such operator"
OTHER_FORM = "workers know this operator in other forms only"
AMONG_HOSTED = "what it reads is no map, but stays on the master"
"""Why an operation is hosted."""


def result_key(key: Any) -> str:
    """What a host layer returns one of the model's outputs by, among the values that host layers keep."""
    return f"output {key}"


@dataclass
class GraphBuilder:
    """``batch`` is the maps' first axis. ``values`` has the model's values by what the frontend names them by; ``written``
    the maps that hosted operations write."""

    batch: int
    values: dict[Any, Value] = field(default_factory=dict, kw_only=True)
    tensors: list[Tensor] = field(default_factory=list, kw_only=True)
    items: list[Layer | HostOp] = field(default_factory=list, kw_only=True)
    draft: Draft = field(default_factory=dict, kw_only=True)
    written: dict[Any, int] = field(default_factory=dict, kw_only=True)
    names: dict[str, int] = field(default_factory=dict, kw_only=True)
    given: dict[Any, int] = field(default_factory=dict, kw_only=True)
    """The inputs that are no maps: hosted operations find them among their values by these numbers."""

    def take(self, key: Any, number: int, name: str, shape: Shape, dtype: str, *, is_map: bool) -> Port:
        """The model's ``number``-th input, whose value the frontend names by ``key``."""
        if is_map:
            ref = Ref(self.map_of(name, *as_sides(shape)), shape)
            self.values[key] = ref
            return Port(name, ref.tensor, shape)
        self.values[key] = Hosted()
        self.given[key] = number
        return Port(name, None, shape, number, dtype)

    def why_hosted(self, known: bool, reads: Iterable[Any]) -> str:
        """``known``: whether there is a rule for the operator; ``reads``: what the operation reads."""
        if not known:
            return UNKNOWN
        found = [self.values.get(key) for key in reads]
        return OTHER_FORM if any(isinstance(value, Ref | Many) for value in found) else AMONG_HOSTED

    def result(self, key: Any, name: str, shape: Shape | None) -> Port:
        """One of the model's outputs: a map as it is, anything else as host layers return it."""
        value = self.values[key]
        if isinstance(value, Ref):
            return Port(name, value.tensor, value.shape)
        return Port(name, None, shape, self.given.get(key, result_key(key)))

    def map_of(self, name: str, channels: int, height: int, width: int) -> int:
        """A new map; its number."""
        self.tensors.append(Tensor(name, self.batch, channels, height, width))
        return len(self.tensors) - 1

    def unique(self, name: str) -> str:
        """A unique name for a layer: a module that is called twice gets 'conv#2'."""
        self.names[name] = count = self.names.get(name, 0) + 1
        return name if count == 1 else f"{name}#{count}"

    def array(self, name: str, value: AnyArray) -> str:
        """Store a weight. Returns its provisional key."""
        key = f"{name}:{len(self.draft)}"
        self.draft[key] = value
        return key

    def ref(self, argument: Any) -> Ref | None:
        value = self.values.get(argument) if isinstance(argument, Hashable) else None
        return value if isinstance(value, Ref) else None

    def elements(self, argument: Any) -> Ref | None:
        """A Ref, or the map of a Last: for operators that treat each element alike. `as_given` puts the axes back."""
        value = self.values.get(argument) if isinstance(argument, Hashable) else None
        return Ref(value.tensor, self.tensors[value.tensor].shape) if isinstance(value, Last) else self.ref(argument)

    def as_given(self, argument: Any, made: Ref) -> Ref | Last:
        """The result of `elements`, with the axes where they were."""
        return Last(made.tensor) if isinstance(self.values.get(argument), Last) else made

    def last(self, argument: Any) -> Ref | None:
        """The map of a Last."""
        value = self.values.get(argument) if isinstance(argument, Hashable) else None
        return Ref(value.tensor, self.tensors[value.tensor].shape) if isinstance(value, Last) else None

    def channels_last(self, argument: Any) -> Ref | None:
        """The map of a value (N, …, C) whose last axis is the map's channels: a Last, or a map of one pixel."""
        ref = self.ref(argument)
        one_pixel = ref is not None and self.tensors[ref.tensor].shape[2:] == (1, 1)
        channels = None if ref is None else self.tensors[ref.tensor].channels
        return ref if one_pixel and ref is not None and ref.shape[-1:] == (channels,) else self.last(argument)

    def moved(self, argument: Any, order: Sequence[int], shape: Shape) -> Ref | Last | None:
        """Channels as the last axis, or back; None for other orders of axes."""
        ref, last = self.ref(argument), self.last(argument)
        if ref is not None and list(order) == [0, 2, 3, 1] and ref.shape == self.tensors[ref.tensor].shape:
            return Last(ref.tensor)
        return Ref(last.tensor, shape) if last is not None and list(order) == [0, 3, 1, 2] else None

    def channelwise(self, argument: Any) -> Ref | None:
        """A Ref whose axis 1 is the channels: (N, C, …)."""
        ref = self.ref(argument)
        return ref if ref and ref.shape[:2] == self.tensors[ref.tensor].shape[:2] else None

    # Layers

    def conv(
        self,
        name: str,
        source: int,
        weight: AnyArray,
        bias: AnyArray | None,
        *,
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> Ref:
        """``weight`` is (out channels, in channels ÷ groups, rows, columns)."""
        read = self.tensors[source]
        spec = ConvSpec(
            in_channels=read.channels,
            out_channels=weight.shape[0],
            height=read.height,
            width=read.width,
            kernel=(weight.shape[2], weight.shape[3]),
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            batch=self.batch,
        )
        name = self.unique(name)
        target = self.map_of(name, spec.out_channels, spec.out_height, spec.out_width)
        self.items.append(Conv(name, source, target, spec, self.array(name, weight), self._bias(name, bias)))
        return Ref(target, self.tensors[target].shape)

    def linear(self, name: str, source: int, weight: AnyArray, bias: AnyArray | None, shape: Shape) -> Ref:
        """A linear layer over a flattened map is a conv whose kernel covers the map. ``weight`` is (outputs, features)."""
        read = self.tensors[source]
        whole = (read.height, read.width)
        spec = ConvSpec(read.channels, int(weight.shape[0]), *whole, kernel=whole, groups=1, batch=self.batch)
        name = self.unique(name)
        target = self.map_of(name, spec.out_channels, 1, 1)
        key = self.array(name, weight.reshape(spec.weight_shape))
        self.items.append(Conv(name, source, target, spec, key, self._bias(name, bias), linear=True))
        return Ref(target, shape)

    def pointwise_linear(self, name: str, ref: Ref, weight: AnyArray, bias: AnyArray | None) -> Last:
        """A linear layer over the channels of each pixel is a 1×1 conv. ``weight`` is (outputs, channels)."""
        one: dict[str, Any] = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}
        return Last(self.conv(name, ref.tensor, weight[:, :, None, None], bias, **one).tensor)

    def _bias(self, name: str, bias: AnyArray | None) -> str | None:
        return None if bias is None else self.array(f"{name}.bias", bias)

    def pool(self, name: str, source: int, kind: str, **geometry: Any) -> Ref:
        """``geometry``: PoolSpec's."""
        read = self.tensors[source]
        spec = PoolSpec(kind, read.channels, read.height, read.width, batch=self.batch, **geometry)
        name = self.unique(name)
        target = self.map_of(name, read.channels, spec.out_height, spec.out_width)
        self.items.append(Pool(name, source, target, spec))
        return Ref(target, self.tensors[target].shape)

    def global_pool(self, name: str, source: int, shape: Shape) -> Ref:
        """The mean over rows and columns."""
        read = self.tensors[source]
        if (read.height, read.width) == (1, 1):
            return Ref(source, shape)
        name = self.unique(name)
        target = self.map_of(name, read.channels, 1, 1)
        self.items.append(GlobalPool(name, source, target))
        return Ref(target, shape)

    def global_max(self, name: str, source: int, shape: Shape) -> Ref:
        """The maximum over rows and columns: over the columns first, so that ranks with some of the rows take part."""
        for axis in ("width", "height"):
            read = self.tensors[source]
            if getattr(read, axis) > 1:
                window = (1, read.width) if axis == "width" else (read.height, 1)
                source = self.pool(name, source, "max", kernel=window, stride=window).tensor
        return Ref(source, shape)

    def affine(
        self, name: str, ref: Ref, scale: AnyArray | None, shift: AnyArray | None, activation: str | None = None
    ) -> Ref:
        """``scale`` and ``shift`` are per channel, or absent."""
        scaled = self._scaled(name, ref, scale) if scale is not None and shift is None and activation is None else None
        if scaled is not None:
            return scaled
        name = self.unique(name)
        target = self._like(name, ref.tensor)
        self.items.append(Affine(name, ref.tensor, target, *self._weights(name, scale, shift), activation))
        return Ref(target, ref.shape)

    def elementwise(
        self, name: str, op: str, sources: tuple[int, ...], shape: Shape, parameters: tuple[float, ...] = ()
    ) -> Ref:
        """``op`` is one of the workers' formulas; the sources are of one shape."""
        name = self.unique(name)
        target = self._like(name, sources[0])
        self.items.append(Elementwise(name, op, sources, target, parameters))
        return Ref(target, shape)

    def one(self, name: str, op: str, ref: Ref, *parameters: float) -> Ref:
        """``op`` on one map."""
        return self.elementwise(name, op, (ref.tensor,), ref.shape, tuple(map(float, parameters)))

    def combined(self, name: str, op: str, one: int, other: int | AnyArray, shape: Shape) -> Ref:
        """``op`` on a map and another, or a constant (C, H, W); either may be of length 1 where the other is longer."""
        name = self.unique(name)
        sizes = [self.tensors[one].shape[1:], self.tensors[other].shape[1:] if isinstance(other, int) else other.shape]
        target = self.map_of(name, *(max(pair) for pair in zip(*sizes, strict=True)))
        if isinstance(other, int):
            self.items.append(Elementwise(name, op, (one, other), target))
        else:
            self.items.append(Elementwise(name, op, (one,), target, constant=self.array(f"{name}.constant", other)))
        return Ref(target, shape)

    def normalized(
        self,
        name: str,
        ref: Ref,
        groups: int,
        eps: float,
        scale: AnyArray | None,
        shift: AnyArray | None,
    ) -> Ref:
        """(x − mean) ÷ √(variance + eps) · scale + shift, with the mean and the variance of each image over rows, columns
        and each of ``groups`` groups of channels. ``scale`` and ``shift`` are per channel, or absent."""
        mean = self.global_pool(f"{name}.mean", ref.tensor, ref.shape).tensor
        inner = self.unique(f"{name}.squares")
        squares = self._like(inner, mean)
        self.items.append(Squares(inner, ref.tensor, mean, squares, groups))
        name = self.unique(name)
        target = self._like(name, ref.tensor)
        keys = self._weights(name, scale, shift)
        self.items.append(Normalize(name, ref.tensor, mean, squares, target, groups, eps, *keys))
        return Ref(target, ref.shape)

    def across(
        self,
        name: str,
        op: str,
        ref: Ref,
        parameters: tuple[float, ...] = (),
        scale: AnyArray | None = None,
        shift: AnyArray | None = None,
    ) -> Ref:
        """``op`` over the channels of each pixel, see `fogconv.ir.layers.AcrossChannels`."""
        name = self.unique(name)
        target = self._like(name, ref.tensor)
        keys = self._weights(name, scale, shift)
        self.items.append(AcrossChannels(name, op, ref.tensor, target, parameters, *keys))
        return Ref(target, ref.shape)

    def _weights(self, name: str, scale: AnyArray | None, shift: AnyArray | None) -> tuple[str | None, str | None]:
        return (
            None if scale is None else self.array(f"{name}.scale", scale),
            None if shift is None else self.array(f"{name}.shift", shift),
        )

    def add(self, name: str, sources: tuple[int, ...], shape: Shape) -> Ref:
        name = self.unique(name)
        target = self._like(name, sources[0])
        self.items.append(Add(name, sources, target))
        return Ref(target, shape)

    def gate(self, name: str, source: int, gate: int, shape: Shape) -> Ref:
        """source · gate, where the gate is (N, C, 1, 1)."""
        name = self.unique(name)
        target = self._like(name, source)
        self.items.append(Gate(name, source, gate, target))
        return Ref(target, shape)

    def self_gated(self, name: str, ref: Ref, gate: Ref) -> Ref | None:
        """x · gate where the gate is computed from x alone, and the product is one operator: silu, hardswish, gelu, mish.
        None where it is none of these."""
        if ref.shape != gate.shape:
            return None
        found = self_gates.gated(self._made_from(gate.tensor, ref.tensor))
        if found is not None:
            return self._as_activation(name, ref, found)
        made = self._maker(ref.tensor)
        if isinstance(made, Affine) and (stages := self._made_from(ref.tensor, made.source)):  # (x · s) · gate of x
            [(kind, numbers), *more] = stages
            found = self_gates.gated(self._made_from(gate.tensor, made.source))
            if kind == self_gates.LINE and not more and numbers[1] == 0.0 and found is not None:
                found = self_gates.scaled(found, numbers[0])
                return None if found is None else self._as_activation(name, Ref(made.source, ref.shape), found)
        return None

    def _maker(self, tensor: int) -> Layer | None:
        """The layer that writes a map; None where that is no layer."""
        layers = (item for item in reversed(self.items) if not isinstance(item, HostOp))
        return next((item for item in layers if tensor in item.writes), None)

    def _scaled(self, name: str, ref: Ref, scale: AnyArray) -> Ref | None:
        """An operator times a number as one operator, for the last factor of such a product."""
        made = self._maker(ref.tensor)
        if not isinstance(made, Elementwise) or len(made.sources) != 1 or np.ptp(scale) != 0.0:
            return None
        found = self_gates.scaled((made.op, made.parameters), float(scale[0]))
        return None if found is None else self._as_activation(name, Ref(made.sources[0], ref.shape), found)

    def _as_activation(self, name: str, ref: Ref, found: self_gates.Operator) -> Ref:
        op, parameters = found
        return self.one(name, op, ref, *parameters) if parameters else self.affine(name, ref, None, None, op)

    def _made_from(self, tensor: int, source: int) -> list[self_gates.Stage]:
        """The stages that make a map of another one, each of one map only, in their order; empty where there are others,
        or more than a pattern has."""
        stages: list[self_gates.Stage] = []
        for item in reversed(self.items):
            if tensor == source or len(stages) > self_gates.MOST:
                break
            if isinstance(item, HostOp) or tensor not in item.writes:
                continue
            if isinstance(item, Elementwise) and len(item.sources) == 1 and item.constant is None:
                stages.append((item.op, item.parameters))
                tensor = item.sources[0]
            elif isinstance(item, Affine):
                factors = [None if key is None else self.draft[key] for key in (item.scale, item.shift)]
                if any(factor is not None and np.ptp(factor) != 0.0 for factor in factors):
                    return []
                if item.activation is not None:
                    stages.append((item.activation, ()))
                scale, shift = (
                    default if f is None else float(f[0]) for f, default in zip(factors, (1.0, 0.0), strict=True)
                )
                stages.append((self_gates.LINE, (scale, shift)))
                tensor = item.source
            else:
                return []
        return stages[::-1] if tensor == source else []

    def concat(self, name: str, sources: Sequence[int], shape: Shape) -> Ref:
        if len(sources) == 1:
            return Ref(sources[0], shape)
        first = self.tensors[sources[0]]
        name = self.unique(name)
        target = self.map_of(name, sum(self.tensors[number].channels for number in sources), first.height, first.width)
        self.items.append(Concat(name, tuple(sources), target))
        return Ref(target, shape)

    def channels(self, name: str, ref: Ref, start: int, count: int, shape: Shape) -> Ref:
        """Channels start … start+count−1, in this shape."""
        read = self.tensors[ref.tensor]
        if count == read.channels:
            return Ref(ref.tensor, shape)
        name = self.unique(name)
        target = self.map_of(name, count, read.height, read.width)
        self.items.append(Slice(name, ref.tensor, target, start))
        return Ref(target, shape)

    def permuted(self, name: str, ref: Ref, order: Sequence[int], shape: Shape) -> Ref | None:
        """Axes in another order, where that moves nothing or shuffles channels: axes of length 1 move freely, and
        (N, g, C/g, H, W) → (N, C/g, g, H, W) is a channel shuffle."""
        long = [axis for axis in order if ref.shape[axis] != 1]
        if long == sorted(long):
            return Ref(ref.tensor, shape)
        if len(ref.shape) < 3:
            return None
        groups, per_group = ref.shape[1:3]
        rest = list(range(3, len(ref.shape)))
        whole = groups * per_group == self.tensors[ref.tensor].channels and ref.shape[0] == self.batch
        return self.shuffled(name, ref, groups, shape) if list(order) == [0, 2, 1, *rest] and whole else None

    def shuffled(self, name: str, ref: Ref, groups: int, shape: Shape) -> Ref:
        name = self.unique(name)
        target = self._like(name, ref.tensor)
        self.items.append(Shuffle(name, ref.tensor, target, groups))
        return Ref(target, shape)

    def resample(self, name: str, source: int, rows: Taps, columns: Taps, fill: float = 0.0) -> Ref:
        """Weighted sums of rows and columns; nothing where these are the source's own, one layer where they are picked of
        what has been picked."""
        before = self.made_by(source)
        if isinstance(before, Resample) and picks(before) and not rows.weights and not columns.weights:
            rows, columns = rows.of(before.rows), columns.of(before.columns)
            source = before.source
        read = self.tensors[source]
        sides = zip((rows, columns), (read.height, read.width), strict=True)
        if all(taps.starts == tuple(range(size)) and not taps.weights for taps, size in sides):
            return Ref(source, read.shape)
        name = self.unique(name)
        target = self.map_of(name, read.channels, len(rows.starts), len(columns.starts))
        self.items.append(Resample(name, source, target, rows, columns, fill))
        return Ref(target, self.tensors[target].shape)

    def interleave(self, name: str, sources: Sequence[int], factors: tuple[int, int], size: tuple[int, int]) -> Ref:
        """The phases of a grid of this size, rows and columns."""
        read = self.tensors[sources[0]]
        if factors == (1, 1) and size == (read.height, read.width):
            return Ref(sources[0], read.shape)
        name = self.unique(name)
        target = self.map_of(name, read.channels, *size)
        self.items.append(Interleave(name, tuple(sources), target, factors))
        return Ref(target, self.tensors[target].shape)

    def made_by(self, tensor: int) -> Layer | None:
        """The layer that makes a map; None for an input and what is hosted."""
        made = (item for item in reversed(self.items) if not isinstance(item, HostOp) and tensor in item.writes)
        return next(made, None)

    def _like(self, name: str, source: int) -> int:
        read = self.tensors[source]
        return self.map_of(name, read.channels, read.height, read.width)
