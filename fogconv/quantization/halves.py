"""Halves: a graph in fp32 becomes one whose maps and weights have 16 bits. It takes no pictures, but can use some.

What comes and what goes stays in fp32, and so do maps that host layers read or write, and means and squares of
normalizations. A conv's source is of 16 bits, its sums are in fp32; every other layer computes in fp32 on what it reads,
whatever that consists of, and rounds what it makes. Layers that only renumber channels have maps of one kind.

Depthwise convs compute in fp32, too. Each of their sums has a few products only, so that roundings do not cancel: most of
what an answer loses would be lost there. Their weights, which are few, stay in fp32, and so does what is made for them
alone: a map of 16 bits would be widened first, which takes longer than to read one of fp32.

The error of a weight is the same in each place of a map, and in each picture. Where inputs are on average above 0, as after
a ReLU, these errors add up: they are most of efficientnet_lite0's noise in bf16. With pictures, weights are rounded so that
they cancel, and biases make up for what is left on average, as in 8 bits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.errors import InputError, ModelError
from fogconv.frontend.quantized.absorb import pruned
from fogconv.ir.arrays import Array, weight_key
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Concat, Conv, Convert, Host, Layer, Normalize, Shuffle, Slice, Squares, Tensor
from fogconv.ir.memory.algorithm import is_depthwise
from fogconv.ir.precision.elements import WEIGHTS_OF, Half
from fogconv.ir.precision.halves import floats, rounded
from fogconv.ir.precision.scale import FP32, Precision
from fogconv.quantization.marking import is_finite, reading
from fogconv.quantization.recorder import Recorder
from fogconv.quantization.weights import Products, corrected_bias, halves_together, has_products, products

Round = Callable[[str, Array], NDArray[Any]]
"""The weights of a layer of this name, in 16 bits."""


def in_halves(graph: LayerGraph, half: Half, batches: Sequence[Sequence[Array]] = (), *, threads: int = 1) -> LayerGraph:
    """With ``batches``, inputs of the graph, each as one inference takes them, weights are rounded for such inputs.

    Raises ModelError for weights that fp16 can't hold, and for maps that are not finite; InputError for such inputs.
    """

    def round_(name: str, weight: Array) -> NDArray[Any]:
        found = rounded(weight, half)
        if half == "fp16" and np.isfinite(weight).all() and not np.isfinite(found).all():
            most = float(np.abs(weight).max())
            raise ModelError(f"{graph.name}: {name} has weights up to {most:g}; fp16 ends at 65504: use --precision bf16")
        return found

    return _Halving(graph, half, round_, _Seen(graph, batches, threads) if batches else None).run()


def halves_for_shapes(graph: LayerGraph, half: Half) -> LayerGraph:
    """The same layers and sizes, with weights that take no memory."""
    nothing = np.zeros((), WEIGHTS_OF[half])
    return _Halving(graph, half, lambda _, weight: np.broadcast_to(nothing, weight.shape)).run()


class _Seen:
    """What the convs that multiply 16 bits read: each channel's ``means``, by map, and ``products``, by layer."""

    def __init__(self, graph: LayerGraph, batches: Sequence[Sequence[Array]], threads: int) -> None:
        if any(not is_finite(array) for inputs in batches for array in inputs if array.dtype.kind == "f"):
            raise InputError("a calibration picture has values that are not finite (NaN or infinity)")
        convs = [layer for layer in graph.layers if isinstance(layer, Conv) and not is_depthwise(layer.spec)]
        self.means: dict[int, NDArray[np.float64]] = {}
        self.products: dict[str, Products] = {}
        recorder = Recorder(graph, {conv.source for conv in convs}, threads)
        for inputs in batches:
            maps = recorder.of(inputs)
            for number, values in maps.items():
                if not is_finite(values):
                    name = graph.tensors[number].name
                    raise ModelError(f"{graph.name}: {name} has values that are not finite; leave --calibrate out")
                mean = values.mean(axis=(0, 2, 3), dtype=np.float64)
                self.means[number] = self.means.get(number, 0.0) + mean / len(batches)
            for conv in convs:
                if has_products(conv.spec):
                    found = products(conv.spec, maps[conv.source])
                    self.products[conv.name] = self.products[conv.name] + found if conv.name in self.products else found


class _Halving:
    def __init__(self, graph: LayerGraph, half: Half, round_: Round, seen: _Seen | None = None) -> None:
        self.graph, self.name, self.half, self.round, self.seen = graph, half, Precision(half), round_, seen
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
                weight, bias = self.parameters(layer) if self.seen is None else self.parameters_for(layer, self.seen)
                spec, source = replace(layer.spec, element=self.half.element), self.as_precision(layer.source, self.half)
                return replace(layer, spec=spec, weight=weight, bias=bias, source=source)
            case Concat() | Slice() | Shuffle():
                wanted = self.tensors[layer.target].precision
                return reading(layer, {source: self.as_precision(source, wanted) for source in layer.reads})
        return layer

    def parameters(self, conv: Conv) -> tuple[str, str | None]:
        """The keys of its weight and bias."""
        key = f"{conv.weight}.{self.half.element}"
        if key not in self.weights:
            self.weights[key] = self.round(conv.name, self.graph.weights[conv.weight])
        return key, conv.bias

    def parameters_for(self, conv: Conv, seen: _Seen) -> tuple[str, str | None]:
        """The same, rounded for what was seen. Weights that several layers share are rounded for each."""
        exact = self.graph.weights[conv.weight]
        found = self.round(conv.name, exact)
        if not np.isfinite(floats(found)).all():
            return self.parameters(conv)
        if conv.name in seen.products:
            found = halves_together(exact, self.name, seen.products[conv.name])
        bias = None if conv.bias is None else self.graph.weights[conv.bias]
        corrected = corrected_bias(exact, floats(found), bias, seen.means[conv.source])
        return self.keep(found), self.keep(corrected)

    def keep(self, array: NDArray[Any]) -> str:
        key = weight_key(array)
        self.weights[key] = array
        return key

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
    found = {*graph.given, *graph.results, *_for_depthwise(graph)}
    for layer in graph.layers:
        match layer:
            case Host():
                found |= {*layer.reads, *layer.writes}
            case Squares():
                found |= {layer.mean, layer.target}
            case Normalize():
                found |= {layer.mean, layer.squares}
    return frozenset(found)


def _for_depthwise(graph: LayerGraph) -> frozenset[int]:
    """What layers compute for depthwise convs alone."""
    readers: defaultdict[int, list[Layer]] = defaultdict(list)
    for layer in graph.layers:
        for number in layer.reads:
            readers[number].append(layer)
    made = {number for layer in graph.layers if not layer.relabels for number in layer.writes}
    return frozenset(
        number
        for number in made
        if readers[number] and all(isinstance(layer, Conv) and is_depthwise(layer.spec) for layer in readers[number])
    )
