"""Quantise: a graph in fp32 and some pictures become a graph on bytes, and what that costs in accuracy.

plain form → ranges of all maps over the pictures → equalised channels (depthwise nets) → int8 weights, rounded so that
errors cancel → corrected biases → each layer's own noise, measured → those above the tolerance stay in fp32, and a few that
spoil the answer → marked graph → graph on bytes
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fogconv.errors import InputError, ModelError
from fogconv.frontend.quantized import absorb
from fogconv.ir.arrays import Array
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv
from fogconv.quantization.equalization import equalized
from fogconv.quantization.marking import Marked, int8_share, is_finite, marked, on_bytes, shared_precisions
from fogconv.quantization.noise.own import own_noise
from fogconv.quantization.noise.sensitive import sensitive
from fogconv.quantization.noise.whole import whole_errors
from fogconv.quantization.plain_form import plain_form
from fogconv.quantization.ranges import Histogram, Method
from fogconv.quantization.recorder import Recorder
from fogconv.quantization.weights import Products, corrected_bias, has_products, integers_of, products, rounded_together

TOLERANCE = 0.3
"""Of a layer's own error: noise ÷ signal, in root mean squares. 0.3 is 10 dB."""


@dataclass(frozen=True, slots=True)
class LayerNoise:
    """What quantising one layer costs. ``own`` is the noise ÷ signal of its result where all before it is exact, ``whole``
    that where all before it is quantised, too (None: not measured)."""

    name: str
    precision: str
    own: float
    whole: float | None

    @property
    def own_db(self) -> float:
        return decibels(self.own)


@dataclass(frozen=True)
class Quantized:
    """``graph`` computes on bytes; ``marked`` is the same in fp32 with conversions. ``noise`` is the noise ÷ signal of the
    first output, ``agreement`` the share of pictures with the same greatest value in it, ``share`` of the multiply-adds
    are in 8 bits."""

    graph: LayerGraph
    marked: Marked
    layers: tuple[LayerNoise, ...]
    noise: float
    agreement: float
    share: float
    pictures: int


def decibels(noise: float) -> float:
    """Of a signal over its noise, where the noise ÷ signal is given."""
    return math.inf if noise <= 0 else -20 * math.log10(noise)


def quantized(
    graph: LayerGraph,
    batches: Sequence[Sequence[Array]],
    *,
    method: Method = "mse",
    tolerance: float = TOLERANCE,
    threads: int = 1,
) -> Quantized:
    """``batches`` are inputs of the graph, each as one inference takes them.

    Raises InputError where there are none, or one has values that are not finite; ModelError for a graph of which nothing
    can compute on bytes.
    """
    if not batches:
        raise InputError("quantising needs pictures to calibrate with; there are none")
    if any(not is_finite(array) for inputs in batches for array in inputs if array.dtype.kind == "f"):
        raise InputError("a calibration picture has values that are not finite (NaN or infinity)")
    if any(tensor.precision.quantized for tensor in graph.tensors):
        raise ModelError(f"{graph.name} is quantised already")
    plain = plain_form(graph)
    names = on_bytes(plain, ())
    if not any(isinstance(layer, Conv) and layer.name in names for layer in plain.layers):
        raise ModelError(f"{graph.name} has no layer that can be quantised")
    seen = _Seen(plain, batches, threads)
    plain = equalized(plain, names, seen.greatest)
    seen = _Seen(plain, batches, threads, names)
    own = {number: histogram.precision(method) for number, histogram in seen.histograms.items()}
    shared = shared_precisions(plain, names, own)
    integers = {
        layer.name: integers_of(
            plain.weights[layer.weight],
            None if layer.bias is None else plain.weights[layer.bias],
            min(own[layer.source].scale, shared[layer.source].scale),
        )
        for layer in plain.layers
        if isinstance(layer, Conv)
    }
    for layer in plain.layers:
        if isinstance(layer, Conv) and layer.name in seen.products:
            weight = plain.weights[layer.weight]
            integers[layer.name] = rounded_together(weight, integers[layer.name], seen.products[layer.name])
    biases = {
        layer.name: corrected_bias(
            plain.weights[layer.weight],
            integers[layer.name].reals,
            None if layer.bias is None else plain.weights[layer.bias],
            seen.means[layer.source],
        )
        for layer in plain.layers
        if isinstance(layer, Conv)
    }

    def mark(kept: frozenset[str]) -> Marked:
        return marked(plain, kept, shared_precisions(plain, kept, own), integers, biases)

    noise = own_noise(plain, names, mark(names), batches, threads)
    exact = frozenset(name for name, each in noise.items() if each.of_signal > tolerance)
    exact |= sensitive(plain, exact, noise, mark, batches, tolerance, threads)
    kept = on_bytes(plain, exact)
    found = mark(kept)
    whole = whole_errors(plain, found, batches, threads)
    final = absorb.on_bytes(found.graph, lambda conv: found.integers.get(conv.name))
    layers = tuple(
        LayerNoise(name, "int8" if name in kept else "fp32", each.of_signal, whole.noise.get(name))
        for name, each in noise.items()
    )
    return Quantized(final, found, layers, whole.output, whole.agreement, int8_share(final), len(batches))


class _Seen:
    """What the maps of a graph were, over all pictures: histograms, means and greatest values of each channel, and for the
    convs of these names the products of their inputs."""

    def __init__(
        self, graph: LayerGraph, batches: Sequence[Sequence[Array]], threads: int, names: Collection[str] = ()
    ) -> None:
        recorder = Recorder(graph, threads=threads)
        self.histograms = {number: Histogram() for number in recorder.maps}
        self.means: dict[int, NDArray[np.float64]] = {}
        self.greatest: dict[int, NDArray[np.float64]] = {}
        self.products: dict[str, Products] = {}
        convs = [layer for layer in graph.layers if isinstance(layer, Conv) and layer.name in names]
        for inputs in batches:
            for number, values in recorder.of(inputs).items():
                if not is_finite(values):
                    name = graph.tensors[number].name
                    raise ModelError(f"{graph.name}: {name} has values that are not finite; they can't be quantised")
                self.histograms[number].reach(values)
                mean, most = values.mean(axis=(0, 2, 3), dtype=np.float64), np.abs(values).max(axis=(0, 2, 3))
                self.means[number] = self.means.get(number, 0.0) + mean / len(batches)
                self.greatest[number] = np.maximum(self.greatest.get(number, 0.0), most)
        for inputs in batches:
            maps = recorder.of(inputs)
            for number, values in maps.items():
                self.histograms[number].count(values)
            for conv in convs:
                if has_products(conv.spec):
                    found = products(conv.spec, maps[conv.source])
                    self.products[conv.name] = self.products[conv.name] + found if conv.name in self.products else found
