"""GraphBuilder: a LayerGraph in the making: its maps, layers and weights. Every frontend's rules build with it.

Its methods add one layer each and return its result. They make its name unique.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fogconv.frontend.building import self_gates
from fogconv.frontend.building.value_table import ValueTable
from fogconv.frontend.building.values import Last, Ref, Shape
from fogconv.frontend.fusion import AnyArray
from fogconv.ir.geometry import ConvSpec, PoolSpec, Taps
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
    Normalize,
    Pool,
    Resample,
    Shuffle,
    Slice,
    Squares,
)


def picks(layer: Resample) -> bool:
    """Whether each of its outputs is an input unchanged."""
    return not (layer.rows.weights or layer.columns.weights) and min(*layer.rows.starts, *layer.columns.starts) >= 0


@dataclass
class GraphBuilder(ValueTable):
    """A LayerGraph in the making; see `ValueTable` for what it holds."""

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
        target = self.like(name, ref.tensor)
        self.items.append(Affine(name, ref.tensor, target, *self._weights(name, scale, shift), activation))
        return Ref(target, ref.shape)

    def elementwise(
        self, name: str, op: str, sources: tuple[int, ...], shape: Shape, parameters: tuple[float, ...] = ()
    ) -> Ref:
        """``op`` is one of the workers' formulas; the sources are of one shape."""
        name = self.unique(name)
        target = self.like(name, sources[0])
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
        squares = self.like(inner, mean)
        self.items.append(Squares(inner, ref.tensor, mean, squares, groups))
        name = self.unique(name)
        target = self.like(name, ref.tensor)
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
        target = self.like(name, ref.tensor)
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
        target = self.like(name, sources[0])
        self.items.append(Add(name, sources, target))
        return Ref(target, shape)

    def gate(self, name: str, source: int, gate: int, shape: Shape) -> Ref:
        """source · gate, where the gate is (N, C, 1, 1)."""
        name = self.unique(name)
        target = self.like(name, source)
        self.items.append(Gate(name, source, gate, target))
        return Ref(target, shape)

    def self_gated(self, name: str, ref: Ref, gate: Ref) -> Ref | None:
        """x · gate where the gate is computed from x alone, and the product is one operator: silu, hardswish, gelu, mish.
        None where it is none of these."""
        if ref.shape != gate.shape:
            return None
        found = self_gates.gated(self._stages(gate.tensor, ref.tensor))
        if found is not None:
            return self._as_activation(name, ref, found)
        made = self.made_by(ref.tensor)
        if isinstance(made, Affine) and (stages := self._stages(ref.tensor, made.source)):  # (x · s) · gate of x
            [(kind, numbers), *more] = stages
            found = self_gates.gated(self._stages(gate.tensor, made.source))
            if kind == self_gates.LINE and not more and numbers[1] == 0.0 and found is not None:
                found = self_gates.scaled(found, numbers[0])
                return None if found is None else self._as_activation(name, Ref(made.source, ref.shape), found)
        return None

    def _stages(self, tensor: int, source: int) -> list[self_gates.Stage]:
        return self_gates.stages_between(self.items, self.draft, tensor, source)

    def _scaled(self, name: str, ref: Ref, scale: AnyArray) -> Ref | None:
        """An operator times a number as one operator, for the last factor of such a product."""
        made = self.made_by(ref.tensor)
        if not isinstance(made, Elementwise) or len(made.sources) != 1 or np.ptp(scale) != 0.0:
            return None
        found = self_gates.scaled((made.op, made.parameters), float(scale[0]))
        return None if found is None else self._as_activation(name, Ref(made.sources[0], ref.shape), found)

    def _as_activation(self, name: str, ref: Ref, found: self_gates.Operator) -> Ref:
        op, parameters = found
        return self.one(name, op, ref, *parameters) if parameters else self.affine(name, ref, None, None, op)

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
        target = self.like(name, ref.tensor)
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
