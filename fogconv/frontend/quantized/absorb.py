"""Absorb: a layer between conversions from and to 8 bits computes on bytes, and the conversions go.

A quantised model is a graph in fp32 with pairs of conversions: to 8 bits, which rounds, and back. As it is
it can be computed in fp32. Where all that a layer reads was converted from 8 bits, and its result is converted to 8 bits and
read by nothing else, the same layer on bytes gives the same result:

    bytes → fp32 → conv → fp32 → bytes         becomes   bytes → conv → bytes

Layers of which workers have no form on bytes stay as they are, with the conversions around them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from fogconv.frontend.grouping import renumbered
from fogconv.frontend.quantized.integers import Integers
from fogconv.ir.arrays import Array, weight_key
from fogconv.ir.graph import LayerGraph, Port
from fogconv.ir.layers import (
    Add,
    Affine,
    Concat,
    Conv,
    Convert,
    Elementwise,
    Gate,
    GlobalPool,
    Layer,
    Pool,
    Shuffle,
    Slice,
    Tensor,
)
from fogconv.ir.precision.scale import FP32, Precision

BOUNDS = re.compile(r"relu|relu6|clip\(.*\)")
"""Activations that are bounds of the bytes of a result."""


def on_bytes(graph: LayerGraph, integers: Callable[[Conv], Integers | None]) -> LayerGraph:
    """The graph with all layers on bytes that can be. ``integers`` has the weights of convs that are 8-bit numbers."""
    if not any(isinstance(layer, Convert) for layer in graph.layers):
        return graph
    return _Absorbing(graph, integers).run()


def is_bounds(activation: str | None) -> bool:
    return activation is None or BOUNDS.fullmatch(activation) is not None


def as_table(layer: Layer) -> Elementwise | None:
    """The same layer where it is a function of one map: of bytes it is a table of 256 entries."""
    match layer:
        case Elementwise(constant=None, sources=(_,)):
            return layer
        case Affine(scale=None, shift=None, activation=str(activation)):
            return activation_layer(layer.name, activation, layer.source, layer.target)
    return None


def activation_layer(name: str, activation: str, source: int, target: int) -> Elementwise:
    """An activation, written as `Elementwise.activation` does, as a layer of its own."""
    op, _, numbers = activation.partition("(")
    parameters = tuple(float(number) for number in numbers.rstrip(")").split(",") if number.strip())
    return Elementwise(name, op, (source,), target, parameters)


class _Absorbing:
    def __init__(self, graph: LayerGraph, integers: Callable[[Conv], Integers | None]) -> None:
        self.graph = graph
        self.integers = integers
        self.tensors = list(graph.tensors)
        self.weights = dict(graph.weights)
        self.layers: list[Layer] = []
        self.bytes_of: dict[int, int] = {}
        """The 8-bit map of which a map in fp32 is the conversion."""
        self.same: dict[int, int] = {}
        """8-bit maps that equal another one."""
        self.readers = Counter(number for layer in graph.layers for number in layer.reads)
        self.readers.update(graph.results)
        self.quantizing = {
            layer.source: layer.target
            for layer in graph.layers
            if isinstance(layer, Convert) and self.tensors[layer.target].precision.quantized
        }

    def run(self) -> LayerGraph:
        for layer in self.graph.layers:
            self.layers.extend(self.rewritten(layer))
        return pruned(replace(self.graph, tensors=tuple(self.tensors), layers=tuple(self.layers), weights=self.weights))

    def rewritten(self, layer: Layer) -> tuple[Layer, ...]:
        match layer:
            case Convert():
                return self.convert(layer)
            case Conv(residual=None):
                return self.conv(layer)
            case Add() if len(layer.sources) == 2 and is_bounds(layer.activation):
                return self.plain(layer)
            case Elementwise() | Affine():
                table = as_table(layer)
                return (layer,) if table is None else self.plain(table)
            case Gate():
                return self.gate(layer)
            case GlobalPool() | Pool():
                return self.plain(layer, keeps=isinstance(layer, Pool) and layer.spec.kind == "max")
            case Slice() | Shuffle():
                return self.plain(layer, keeps=True)
            case Concat():
                return self.concat(layer)
        return (layer,)

    def precision(self, tensor: int) -> Precision:
        return self.tensors[tensor].precision

    def read(self, tensor: int) -> int | None:
        """The bytes that a map in fp32 was converted from."""
        found = self.bytes_of.get(tensor)
        return None if found is None else self.same.get(found, found)

    def made(self, tensor: int) -> int | None:
        """The bytes that a map is converted to, where nothing else reads it."""
        return self.quantizing.get(tensor) if self.readers[tensor] == 1 else None

    def take(self, made: int) -> None:
        """A layer writes these bytes itself: the conversion to them is not needed."""
        self.same[made] = made

    def convert(self, layer: Convert) -> tuple[Layer, ...]:
        if self.precision(layer.source).quantized:
            self.bytes_of[layer.target] = layer.source
            return (replace(layer, source=self.same.get(layer.source, layer.source)),)
        if layer.target in self.same:
            return ()
        source = self.read(layer.source)
        if source is None:
            return (layer,)
        if self.precision(source) == self.precision(layer.target):
            self.same[layer.target] = source
            return ()
        return (replace(layer, source=source),)

    def conv(self, layer: Conv) -> tuple[Layer, ...]:
        source, integers = self.read(layer.source), self.integers(layer)
        if source is None or integers is None or not is_bounds(layer.activation):
            return (layer,)
        made = self.made(layer.target)
        bias = integers.bias(None if layer.bias is None else self.weights[layer.bias], self.precision(source).scale)
        if bias is None:
            return (layer,)
        if made is not None:
            self.take(made)
        keys = [self.keep(array) for array in (integers.values, bias, integers.scales)]
        spec = replace(layer.spec, element="uint8")
        conv = replace(layer, source=source, spec=spec, weight=keys[0], bias=keys[1], scales=keys[2])
        if made is not None:
            return (replace(conv, target=made),)
        if layer.activation is None or layer.activation == "relu":
            return (conv,)
        # Sums that leave the bytes have no bound but 0: others follow as a layer of their own.
        between = self.like(layer.target, FP32, layer.name)
        bounds = activation_layer(f"{layer.name}.bounds", layer.activation, between, layer.target)
        return replace(conv, target=between, activation=None), bounds

    def keep(self, array: Any) -> str:
        key = weight_key(array)
        self.weights[key] = np.ascontiguousarray(array)
        return key

    def plain(
        self, layer: Add | Elementwise | Pool | GlobalPool | Slice | Shuffle, *, keeps: bool = False
    ) -> tuple[Layer, ...]:
        """``keeps``: its result has the precision of what it reads."""
        read, made = [self.read(source) for source in layer.reads], self.made(layer.target)
        found = [source for source in read if source is not None]
        if made is None or len(found) < len(read):
            return (layer,)
        self.take(made)
        sources = {"sources": tuple(found)} if isinstance(layer, Add | Elementwise) else {"source": found[0]}
        if keeps and self.precision(found[0]) != self.precision(made):
            between = self.like(made, self.precision(found[0]), layer.name)
            named = f"{layer.name}.scale"
            return replace(layer, target=between, **sources), Convert(named, between, made)
        return (replace(layer, target=made, **sources),)

    def gate(self, layer: Gate) -> tuple[Layer, ...]:
        source, gate, made = self.read(layer.source), self.read(layer.gate), self.made(layer.target)
        if source is None or gate is None or made is None:
            return (layer,)
        self.take(made)
        return (replace(layer, source=source, gate=gate, target=made),)

    def concat(self, layer: Concat) -> tuple[Layer, ...]:
        read, made = [self.read(source) for source in layer.sources], self.made(layer.target)
        if made is None or any(source is None for source in read):
            return (layer,)
        self.take(made)
        sources, before = [], []
        for number, source in enumerate(read):
            assert source is not None
            if self.precision(source) != self.precision(made):
                name = f"{layer.name}.scale{number}"
                before.append(Convert(name, source, self.like(source, self.precision(made), name)))
                source = before[-1].target
            sources.append(source)
        return (*before, replace(layer, sources=tuple(sources), target=made))

    def like(self, tensor: int, precision: Precision, name: str) -> int:
        self.tensors.append(replace(self.tensors[tensor], precision=precision, name=name))
        return len(self.tensors) - 1


def pruned(graph: LayerGraph) -> LayerGraph:
    """The graph without what its outputs do not depend on, its maps numbered in the order in which they are written."""
    wanted, kept = set(graph.results), list[Layer]()
    for layer in reversed(graph.layers):
        values = any(port.tensor is None for port in graph.outputs) and not layer.writes
        if values or not wanted.isdisjoint(layer.writes) or not hasattr(layer, "target"):
            wanted.update(layer.reads)
            kept.append(layer)
    numbers: dict[int, int] = {}
    for number in (*graph.given, *(number for layer in reversed(kept) for number in layer.writes)):
        numbers.setdefault(number, len(numbers))
    used: dict[str, Array] = {}

    def keep(key: str | None) -> str | None:
        if key is not None:
            used[key] = graph.weights[key]
        return key

    layers = tuple(renumbered(layer, numbers, keep) for layer in reversed(kept))
    tensors: list[Tensor] = [graph.tensors[number] for number in numbers]
    for layer in layers:
        if hasattr(layer, "target"):
            tensors[layer.target] = replace(tensors[layer.target], name=layer.name)

    def moved(port: Port) -> Port:
        return port if port.tensor is None else replace(port, tensor=numbers[port.tensor])

    inputs, outputs = tuple(map(moved, graph.inputs)), tuple(map(moved, graph.outputs))
    return replace(graph, tensors=tuple(tensors), layers=layers, inputs=inputs, outputs=outputs, weights=used)


def in_bytes(graph: LayerGraph, layer: Layer) -> bool:
    """Whether a layer computes on bytes. A conversion is neither."""
    reads = [graph.tensors[number].precision for number in layer.reads]
    return bool(reads) and all(precision != FP32 for precision in reads)
