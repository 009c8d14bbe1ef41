"""Zero channels: what a pruned model computes in vain.

A channel that is 0 for every picture is left out of its map, of the conv that writes it and of the convs that read it. It is
so only if it is 0 all the way, through activations, pools and sums, until convs take it in. A channel of a constant other
than 0 stays, and so does one that a sum adds to another channel, that a group of a grouped conv counts, or that is a part of
the model's output.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.ir.arrays import Array, weight_key
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import (
    Add,
    Affine,
    Concat,
    Conv,
    Convert,
    Elementwise,
    Gate,
    GlobalPool,
    Interleave,
    Layer,
    Pool,
    Resample,
    Slice,
    Tensor,
)

Mask = NDArray[np.bool_]
"""(C,): which channels of a map."""

ZERO_AT_ZERO = frozenset(
    ("relu", "relu6", "silu", "hardswish", "leaky_relu", "elu", "gelu", "gelu_tanh", "swish", "mish", "softsign", "tanh")
)
"""Functions of one number that give 0 for 0, whatever their parameters."""

DROPPED = "zero_channels"
"""The graph's ``info`` has their number under this name."""


def without_zero_channels(graph: LayerGraph) -> LayerGraph:
    """The graph without channels that are always 0, at least one left in each map. Quantised models stay as they are."""
    if any(isinstance(layer, Convert) for layer in graph.layers) or not any(_zero_rows(graph)):
        return graph
    zero = _zeros(graph)
    dropped = _droppable(graph, zero)
    count = int(sum(mask.sum() for mask in dropped.values()))
    return _Cut(graph, dropped).graph(count) if count else graph


def dropped_channels(graph: LayerGraph) -> int:
    """How many were left out as the model was read."""
    return int(graph.info.get(DROPPED, 0))


def sentence(count: int) -> str:
    return (
        f"{count} channel{'s that are' if count > 1 else ' that is'} always zero {'were' if count > 1 else 'was'} left out"
    )


def _zero_rows(graph: LayerGraph) -> Iterator[bool]:
    """Of each conv, whether it has a filter of zeros: most models have none, and that is soon known."""
    for layer in graph.layers:
        if isinstance(layer, Conv):
            yield not _rows(graph.weights[layer.weight]).all()


def _rows(weight: Array) -> Mask:
    """Which filters have a weight that is not 0."""
    return np.asarray(weight.reshape(len(weight), -1).any(axis=1))


def _zeros(graph: LayerGraph) -> list[Mask]:
    """Of each map, which channels are always 0."""
    zero = [np.zeros(tensor.channels, np.bool_) for tensor in graph.tensors]
    for layer in graph.layers:
        found = _zeros_of(graph, layer, zero)
        if found is not None:
            [target] = layer.writes
            zero[target] = found
    return zero


def _zeros_of(graph: LayerGraph, layer: Layer, zero: list[Mask]) -> Mask | None:
    """Of what a layer writes; None where nothing is known of it."""
    match layer:
        case Conv():
            found = ~_rows(graph.weights[layer.weight])
            if _plainly_depthwise(layer):
                found |= zero[layer.source]
            found &= _nothing(graph, layer.bias, layer.spec.out_channels)
            if layer.residual is not None:
                found &= zero[layer.residual]
            return found if _keeps_zero(layer.activation) else None
        case Affine():
            found = zero[layer.source] & _nothing(graph, layer.shift, len(zero[layer.source]))
            return found if _keeps_zero(layer.activation) else None
        case Add():
            return _all(zero, layer.sources) if _keeps_zero(layer.activation) else None
        case Elementwise(constant=None, sources=(source,)):
            return zero[source] if _keeps_zero(layer.activation) else None
        case Gate():
            return zero[layer.source]
        case Pool():
            reach = (layer.spec.padding[axis] < layer.spec.kernel[axis // 2] for axis in range(4))
            return zero[layer.source] if all(reach) and layer.spec.dilation == (1, 1) else None
        case GlobalPool():
            return zero[layer.source]
        case Resample(fill=0.0):
            return zero[layer.source]
        case Interleave():
            return _all(zero, layer.sources)
        case Concat() | Slice():
            return _moved(graph, layer, zero)
    return None


def _all(zero: list[Mask], numbers: tuple[int, ...]) -> Mask:
    return np.asarray(np.logical_and.reduce([zero[number] for number in numbers]))


def _nothing(graph: LayerGraph, key: str | None, channels: int) -> Mask:
    """Where a bias is 0."""
    return np.ones(channels, np.bool_) if key is None else np.asarray(graph.weights[key] == 0)


def _keeps_zero(activation: str | None) -> bool:
    if activation is None:
        return True
    name, _, numbers = activation.partition("(")
    if name == "clip":
        low, high = (float(number) for number in numbers.rstrip(")").split(","))
        return low <= 0 <= high
    return name in ZERO_AT_ZERO and all(math.isfinite(float(n)) for n in numbers.rstrip(")").split(",") if n.strip())


def _moved(graph: LayerGraph, layer: Concat | Slice, masks: list[Mask]) -> Mask:
    found = np.zeros(graph.tensors[layer.target].channels, np.bool_)
    for to, source, channel in _same(graph, layer):
        found[to] = masks[source][channel]
    return found


def _same(graph: LayerGraph, layer: Concat | Slice) -> Iterator[tuple[int, int, int]]:
    """(channel of the target, source, its channel) of what is the same."""
    size = graph.tensors[layer.target].channels
    for source, offset in layer.pieces(graph.tensors):
        for channel in range(graph.tensors[source].channels):
            if 0 <= channel + offset < size:
                yield channel + offset, source, channel


@dataclass
class _Classes:
    """Channels of all maps that can only be dropped together; by the first of them."""

    starts: list[int]
    heads: list[int] = field(default_factory=list)

    def of(self, tensor: int, channel: int) -> int:
        at = self.starts[tensor] + channel
        while self.heads[at] != at:
            self.heads[at] = self.heads[self.heads[at]]
            at = self.heads[at]
        return at

    def join(self, one: tuple[int, int], other: tuple[int, int]) -> None:
        self.heads[self.of(*one)] = self.of(*other)


def _droppable(graph: LayerGraph, zero: list[Mask]) -> Mapping[int, Mask]:
    """By map, the channels that every reader and the writer can do without."""
    starts = list(np.cumsum([0, *(len(mask) for mask in zero)])[:-1])
    classes = _Classes([int(start) for start in starts], list(range(sum(map(len, zero)))))
    stays: set[int] = {*graph.given, *graph.results}
    for layer in graph.layers:
        for one, other in _together(graph, layer, stays):
            classes.join(one, other)
    whole = {classes.of(tensor, channel) for tensor in stays for channel in range(len(zero[tensor]))}
    whole |= {classes.of(tensor, int(c)) for tensor, mask in enumerate(zero) for c in np.flatnonzero(~mask)}
    # A map keeps its last channel: the class of one that would lose all of them stays.
    for tensor, mask in enumerate(zero):
        heads = [classes.of(tensor, channel) for channel in range(len(mask))]
        if whole.isdisjoint(heads):
            whole.add(heads[0])
    found = {}
    for tensor, mask in enumerate(zero):
        gone = np.array([bool(mask[c]) and classes.of(tensor, c) not in whole for c in range(len(mask))], np.bool_)
        if gone.any():
            found[tensor] = gone
    return found


Channel = tuple[int, int]
"""(map, channel)."""


def _together(graph: LayerGraph, layer: Layer, stays: set[int]) -> Iterator[tuple[Channel, Channel]]:
    """Channels that a layer's input and output can only lose together; whole maps of which it needs all go to ``stays``."""
    alike: tuple[int, ...]
    match layer:
        case Conv() if layer.spec.groups == 1 or _plainly_depthwise(layer):
            alike = () if layer.residual is None else (layer.residual,)
            alike += () if layer.spec.groups == 1 else (layer.source,)
        case Concat() | Slice():
            yield from (((layer.target, to), (source, channel)) for to, source, channel in _same(graph, layer))
            return
        case Pool() | GlobalPool() | Affine() | Add() | Gate() | Resample() | Interleave():
            alike = layer.reads
        case Elementwise(constant=None) if len({graph.tensors[number].channels for number in layer.reads}) == 1:
            alike = layer.reads
        case _:
            stays.update((*layer.reads, *layer.writes))
            return
    [target] = layer.writes
    for source in alike:
        yield from (((source, channel), (target, channel)) for channel in range(graph.tensors[target].channels))


def _plainly_depthwise(layer: Conv) -> bool:
    return layer.spec.groups == layer.spec.in_channels == layer.spec.out_channels


class _Cut:
    """The graph with some channels of some maps cut out."""

    def __init__(self, graph: LayerGraph, dropped: Mapping[int, Mask]) -> None:
        self.before, self.dropped = graph, dropped
        self.weights: dict[str, Array] = {}

    def graph(self, count: int) -> LayerGraph:
        tensors = tuple(self.tensor(number, tensor) for number, tensor in enumerate(self.before.tensors))
        layers = tuple(self.layer(layer) for layer in self.before.layers)
        info = {**self.before.info, DROPPED: str(count)}
        return replace(self.before, tensors=tensors, layers=layers, weights=self.weights, info=info)

    def kept(self, tensor: int) -> NDArray[np.intp]:
        """Its channels that stay."""
        mask = self.dropped.get(tensor)
        return np.arange(self.before.tensors[tensor].channels) if mask is None else np.flatnonzero(~mask)

    def tensor(self, number: int, tensor: Tensor) -> Tensor:
        return replace(tensor, channels=len(self.kept(number))) if number in self.dropped else tensor

    def layer(self, layer: Layer) -> Layer:
        match layer:
            case Conv():
                return self.conv(layer)
            case Affine():
                kept = self.kept(layer.target)
                scale, shift = (self.part(key, (kept,), layer.target in self.dropped) for key in (layer.scale, layer.shift))
                return replace(layer, scale=scale, shift=shift)
            case Pool() if layer.source in self.dropped:
                return replace(layer, spec=replace(layer.spec, channels=len(self.kept(layer.source))))
            case Slice():
                start = int((self.kept(layer.source) < layer.start).sum())
                return replace(layer, start=start)
        for attribute in layer.weight_keys:
            key: str | None = getattr(layer, attribute)
            if key is not None:
                self.weights[key] = self.before.weights[key]
        return layer

    def conv(self, layer: Conv) -> Conv:
        outputs, inputs = self.kept(layer.target), self.kept(layer.source)
        depthwise = layer.spec.groups > 1 and layer.source in self.dropped
        changed = layer.target in self.dropped or layer.source in self.dropped
        index = (outputs,) if layer.spec.groups > 1 else (outputs, inputs)
        spec: Any = replace(
            layer.spec,
            in_channels=len(inputs),
            out_channels=len(outputs),
            groups=len(inputs) if depthwise else layer.spec.groups,
        )
        weight = self.part(layer.weight, index, changed)
        assert weight is not None
        return replace(layer, spec=spec, weight=weight, bias=self.part(layer.bias, (outputs,), layer.target in self.dropped))

    def part(self, key: str | None, index: tuple[NDArray[np.intp], ...], changed: bool) -> str | None:
        """The key of a part of a weight, by its first axes."""
        if key is None:
            return None
        array = self.before.weights[key]
        if changed:
            array = np.ascontiguousarray(array[np.ix_(*index)])
            key = weight_key(array)
        self.weights[key] = array
        return key
