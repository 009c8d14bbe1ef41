"""Halves: a graph in fp32 becomes one whose maps and weights have 16 bits, which takes no pictures.

What comes and what goes stays in fp32, and so do maps that host layers read or write, and means and squares of
normalizations. A conv's source is of 16 bits, its sums are in fp32; every other layer computes in fp32 on what it reads,
whatever that consists of, and rounds what it makes. Layers that only renumber channels have maps of one kind.

Depthwise convs compute in fp32, too. Each of their sums has a few products only, so that roundings do not cancel: most of
what an answer loses would be lost there. Their weights, which are few, stay in fp32, and so does what the first conv makes
for them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.errors import ModelError
from fogconv.frontend.quantized.absorb import pruned
from fogconv.ir.arrays import Array
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Concat, Conv, Convert, Host, Layer, Normalize, Shuffle, Slice, Squares, Tensor
from fogconv.ir.memory.algorithm import is_depthwise
from fogconv.ir.precision.elements import WEIGHTS_OF, Half
from fogconv.ir.precision.halves import rounded
from fogconv.ir.precision.scale import FP32, Precision
from fogconv.quantization.marking import reading

Round = Callable[[str, Array], NDArray[Any]]
"""The weights of a layer of this name, in 16 bits."""


def in_halves(graph: LayerGraph, half: Half) -> LayerGraph:
    """Raises ModelError for weights that fp16 can't hold."""

    def round_(name: str, weight: Array) -> NDArray[Any]:
        found = rounded(weight, half)
        if half == "fp16" and np.isfinite(weight).all() and not np.isfinite(found).all():
            most = float(np.abs(weight).max())
            raise ModelError(f"{graph.name}: {name} has weights up to {most:g}; fp16 ends at 65504: use --precision bf16")
        return found

    return _Halving(graph, half, round_).run()


def halves_for_shapes(graph: LayerGraph, half: Half) -> LayerGraph:
    """The same layers and sizes, with weights that take no memory."""
    nothing = np.zeros((), WEIGHTS_OF[half])
    return _Halving(graph, half, lambda _, weight: np.broadcast_to(nothing, weight.shape)).run()


class _Halving:
    def __init__(self, graph: LayerGraph, half: Half, round_: Round) -> None:
        self.graph, self.half, self.round = graph, Precision(half), round_
        exact = _exact(graph)
        self.tensors: list[Tensor] = [
            replace(tensor, precision=FP32 if number in exact else self.half) for number, tensor in enumerate(graph.tensors)
        ]
        self.layers: list[Layer] = []
        self.weights: dict[str, Any] = dict(graph.weights)
        self.converted: dict[tuple[int, Precision], int] = {}

    def run(self) -> LayerGraph:
        for layer in self.graph.layers:
            self.layers.append(self.changed(layer))
        return pruned(replace(self.graph, tensors=tuple(self.tensors), layers=tuple(self.layers), weights=self.weights))

    def changed(self, layer: Layer) -> Layer:
        match layer:
            case Conv() if is_depthwise(layer.spec) and self.tensors[layer.source].precision == self.half:
                return replace(layer, spec=replace(layer.spec, element=self.half.element))
            case Conv() if not is_depthwise(layer.spec):
                key = f"{layer.weight}.{self.half.element}"
                if key not in self.weights:
                    self.weights[key] = self.round(layer.name, self.graph.weights[layer.weight])
                spec = replace(layer.spec, element=self.half.element)
                return replace(layer, spec=spec, weight=key, source=self.as_precision(layer.source, self.half))
            case Concat() | Slice() | Shuffle():
                wanted = self.tensors[layer.target].precision
                return reading(layer, {source: self.as_precision(source, wanted) for source in layer.reads})
        return layer

    def as_precision(self, tensor: int, wanted: Precision) -> int:
        """The same map in that precision: itself, or a conversion of it."""
        if self.tensors[tensor].precision == wanted:
            return tensor
        known = self.converted.get((tensor, wanted))
        if known is None:
            known = self.converted[tensor, wanted] = len(self.tensors)
            name = f"{self.tensors[tensor].name}.{wanted.element}"
            self.tensors.append(replace(self.tensors[tensor], name=name, precision=wanted))
            self.layers.append(Convert(name, tensor, known))
        return known


def _exact(graph: LayerGraph) -> frozenset[int]:
    """The maps that stay in fp32."""
    found = {*graph.given, *graph.results, *_first_maps(graph)}
    for layer in graph.layers:
        match layer:
            case Host():
                found |= {*layer.reads, *layer.writes}
            case Squares():
                found |= {layer.mean, layer.target}
            case Normalize():
                found |= {layer.mean, layer.squares}
    return frozenset(found)


def _first_maps(graph: LayerGraph) -> frozenset[int]:
    """What convs of a picture make for depthwise convs alone."""
    readers: defaultdict[int, list[Layer]] = defaultdict(list)
    for layer in graph.layers:
        for number in layer.reads:
            readers[number].append(layer)
    made = {layer.target for number in graph.given for layer in readers[number] if isinstance(layer, Conv)}
    return frozenset(
        number
        for number in made
        if readers[number] and all(isinstance(layer, Conv) and is_depthwise(layer.spec) for layer in readers[number])
    )
