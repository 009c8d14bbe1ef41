"""Equalisation: channels of very unlike ranges share one scale, so that small ones lose their digits. Where a conv follows
another, a channel can be divided in the one and multiplied in the other without a change of what both compute.

After Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", arXiv 1906.04721, with the
greatest values that were seen in place of the first conv's weights, which have a scale per channel anyway. Only for nets
with depthwise convs: others have no such channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fogconv.ir.arrays import Array, weight_key
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv, Layer

MOST = 8.0
"""A channel is made larger or smaller by no more than this factor."""


def equalized(graph: LayerGraph, names: Collection[str], greatest: Mapping[int, NDArray[np.float64]]) -> LayerGraph:
    """The same graph with the channels between two convs of ``names`` more alike. ``greatest``: of each map's channels."""
    if not any(isinstance(layer, Conv) and layer.spec.depthwise for layer in graph.layers):
        return graph
    layers, weights = list(graph.layers), dict(graph.weights)
    readers = Counter(number for layer in layers for number in layer.reads)
    readers.update(graph.results)
    writer = {layer.writes[0]: index for index, layer in enumerate(layers) if layer.writes}
    for index, layer in enumerate(layers):
        before = layers[writer[layer.source]] if isinstance(layer, Conv) and layer.source in writer else None
        if (
            isinstance(layer, Conv)
            and isinstance(before, Conv)
            and {layer.name, before.name} <= set(names)
            and before.activation in (None, "relu")
            and readers[layer.source] == 1
            and (layer.spec.groups == 1 or layer.spec.depthwise)
        ):
            pair = _pair(before, layer, greatest[layer.source], weights)
            layers[writer[layer.source]], layers[index] = pair
    return replace(graph, layers=tuple(layers), weights=weights)


def _pair(one: Conv, other: Conv, greatest: NDArray[np.float64], weights: dict[str, Array]) -> tuple[Layer, Layer]:
    factors = _factors(greatest, _most_of(other, weights[other.weight]))

    def keep(array: NDArray[np.float64]) -> str:
        kept = np.ascontiguousarray(array, np.float32)
        key = weight_key(kept)
        weights[key] = kept
        return key

    first = weights[one.weight].astype(np.float64) / factors.reshape(-1, 1, 1, 1)
    bias = None if one.bias is None else keep(weights[one.bias].astype(np.float64) / factors)
    second = weights[other.weight].astype(np.float64)
    if other.spec.groups == 1:
        second = second * factors.reshape(1, -1, 1, 1)
    else:
        second = second * np.repeat(factors, other.spec.out_channels // other.spec.groups).reshape(-1, 1, 1, 1)
    return replace(one, weight=keep(first), bias=bias), replace(other, weight=keep(second))


def _most_of(conv: Conv, weight: Array) -> NDArray[np.float64]:
    """The greatest weight of each input channel."""
    if conv.spec.groups > 1:
        return np.asarray(np.abs(weight).reshape(conv.spec.groups, -1).max(axis=1), np.float64)
    return np.asarray(np.abs(weight).max(axis=(0, 2, 3)), np.float64)


def _factors(greatest: NDArray[np.float64], reading: NDArray[np.float64]) -> NDArray[np.float64]:
    """√(values ÷ weights), relative to the geometric mean; 1 for channels that are always 0."""
    used = (greatest > 0) & (reading > 0)
    if not used.any():
        return np.ones_like(greatest)
    logs = np.zeros_like(greatest)
    logs[used] = 0.5 * (np.log(greatest[used]) - np.log(reading[used]))
    logs[used] -= logs[used].mean()
    return np.exp(np.clip(logs, -np.log(MOST), np.log(MOST)))
