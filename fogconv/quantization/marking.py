"""Marking: which layers compute on bytes, and the conversions around them.

A marked graph is in fp32: each map that a layer on bytes reads goes through a conversion to 8 bits and back, and its convs
have rounded weights. `fogconv.frontend.quantized.absorb` turns it into a graph on bytes; ONNX's QDQ form is the same thing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fogconv.frontend.quantized.absorb import as_table, is_bounds
from fogconv.frontend.quantized.integers import Integers
from fogconv.ir.arrays import Array, weight_key
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Add, Concat, Conv, Convert, Elementwise, Gate, GlobalPool, Layer, Pool, Shuffle, Slice
from fogconv.ir.precision.elements import Element
from fogconv.ir.precision.scale import FP32, Precision, uint8


@dataclass(frozen=True)
class Marked:
    """``integers`` has the weights of the convs on bytes, by the layer's name."""

    graph: LayerGraph
    integers: Mapping[str, Integers]


def on_bytes(graph: LayerGraph, exact: Collection[str]) -> frozenset[str]:
    """The names of the layers that compute on bytes, but for those in ``exact``.

    A conv's sums may stay in fp32. Of other layers the result must be wanted as bytes, or they would gain nothing.
    """
    found = {layer.name: layer for layer in graph.layers if layer.name not in exact and _possible(layer)}
    while True:
        wanted = {source for layer in found.values() for source in layer.reads}
        useless = [
            name
            for name, layer in found.items()
            if not isinstance(layer, Conv) and (layer.writes[0] not in wanted or layer.writes[0] in graph.results)
        ]
        if not useless:
            return frozenset(found)
        for name in useless:
            del found[name]


def _possible(layer: Layer) -> bool:
    match layer:
        case Conv():
            return layer.residual is None and is_bounds(layer.activation)
        case Add():
            return len(layer.sources) == 2 and is_bounds(layer.activation)
        case Elementwise():
            return as_table(layer) is not None
    return isinstance(layer, Pool | GlobalPool | Gate | Concat | Slice | Shuffle)


def shared_precisions(graph: LayerGraph, names: Collection[str], own: Mapping[int, Precision]) -> dict[int, Precision]:
    """The precision of each map. Layers that only move values, on bytes, give all of their maps one: the range of all."""
    group = {number: number for number in own}

    def root(number: int) -> int:
        while group[number] != number:
            number = group[number]
        return number

    for layer in graph.layers:
        moves = isinstance(layer, Concat | Slice | Shuffle) or (isinstance(layer, Pool) and layer.spec.kind == "max")
        if moves and layer.name in names:
            for source in layer.reads:
                group[root(source)] = root(layer.writes[0])
    members: dict[int, list[Precision]] = defaultdict(list)
    for number, precision in own.items():
        members[root(number)].append(precision)
    whole = {
        first: each[0]
        if len(set(each)) == 1
        else uint8(min(one.bounds[0] for one in each), max(one.bounds[1] for one in each))
        for first, each in members.items()
    }
    return {number: whole[root(number)] for number in own}


def marked(
    graph: LayerGraph,
    names: Collection[str],
    precisions: Mapping[int, Precision],
    integers: Mapping[str, Integers],
    biases: Mapping[str, Array],
) -> Marked:
    """The graph with conversions around the layers of these names, and their weights rounded."""
    layers, tensors, weights = list[Layer](), list(graph.tensors), dict[str, Any](graph.weights)
    fast = [layer for layer in graph.layers if layer.name in names]
    written = {layer.writes[0]: layer for layer in fast}
    quantized = {source for layer in fast for source in layer.reads}
    seen: dict[int, int] = {}

    def keep(array: Array) -> str:
        key = weight_key(array)
        weights[key] = array
        return key

    def convert(number: int) -> None:
        name, first = tensors[number].name, len(tensors)
        tensors.append(replace(tensors[number], name=f"{name}.bytes", precision=precisions[number]))
        tensors.append(replace(tensors[number], name=f"{name}.real", precision=FP32))
        layers.extend((Convert(f"{name}.bytes", number, first), Convert(f"{name}.real", first, first + 1)))
        seen[number] = first + 1

    for number in graph.given:
        if number in quantized:
            convert(number)
    for layer in graph.layers:
        here = layer.name in names
        moved = {number: seen[number] for number in layer.reads if number in seen and (here or number in written)}
        changed = reading(layer, moved)
        if here and isinstance(changed, Conv):
            bias = None if layer.name not in biases else keep(biases[layer.name])
            changed = replace(changed, weight=keep(integers[layer.name].reals), bias=bias or changed.bias)
        layers.append(changed)
        for number in layer.writes:
            if number in quantized:
                convert(number)
    ends = {number: seen[number] for number in seen if number in written}
    outputs = tuple(
        port if port.tensor is None else replace(port, tensor=ends.get(port.tensor, port.tensor)) for port in graph.outputs
    )
    found = replace(graph, tensors=tuple(tensors), layers=tuple(layers), outputs=outputs, weights=weights)
    return Marked(found, {name: each for name, each in integers.items() if name in names})


def reading(layer: Layer, moved: Mapping[int, int]) -> Layer:
    """The layer, reading other maps in the place of some."""
    changes: dict[str, Any] = {}
    for attribute in ("source", "gate", "residual", "mean", "squares"):
        number: int | None = getattr(layer, attribute, None)
        if number is not None and number in moved:
            changes[attribute] = moved[number]
    for attribute in ("sources", "reads"):
        if attribute in getattr(layer, "__dataclass_fields__", {}):
            changes[attribute] = tuple(moved.get(number, number) for number in getattr(layer, attribute))
    return replace(layer, **changes) if changes else layer


def share_in(graph: LayerGraph, element: Element) -> float:
    """Of all multiply-adds of workers' convs, those on maps of this element (0 to 1)."""
    macs: Counter[str] = Counter()
    for layer in graph.layers:
        if isinstance(layer, Conv):
            macs[layer.spec.element] += layer.spec.macs
    total = sum(macs.values())
    return macs[element] / total if total else 0.0


def int8_share(graph: LayerGraph) -> float:
    """Of all multiply-adds of workers' convs, those on bytes (0 to 1)."""
    return share_in(graph, "uint8")


def is_finite(values: Array) -> bool:
    return bool(np.isfinite(values).all())
