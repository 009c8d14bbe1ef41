"""Own noise: what each conv adds where all before it is exact."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fogconv.ir.arrays import Array
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv, Convert
from fogconv.ir.precision.scale import Precision
from fogconv.quantization.marking import Marked
from fogconv.quantization.recorder import Recorder


def ratio(noise: float, signal: float) -> float:
    """Of root mean squares, from sums of squares."""
    return math.sqrt(noise / signal) if signal > 0 else 0.0 if noise == 0 else math.inf


@dataclass(frozen=True, slots=True)
class OwnNoise:
    """Noise ÷ signal of a conv's result: ``of_signal``, and ``of_variation``, where only what differs from a channel's mean
    is signal."""

    of_signal: float
    of_variation: float


def own_noise(
    plain: LayerGraph, names: frozenset[str], shadow: Marked, batches: Sequence[Sequence[Array]], threads: int
) -> dict[str, OwnNoise]:
    """The noise ÷ signal of each conv alone: it reads the exact maps, rounded to bytes."""
    convs = [layer for layer in plain.layers if isinstance(layer, Conv) and layer.name in names]
    rounded = {layer.name: layer for layer in shadow.graph.layers}
    precisions = {
        layer.source: shadow.graph.tensors[layer.target].precision
        for layer in shadow.graph.layers
        if isinstance(layer, Convert) and shadow.graph.tensors[layer.target].precision.quantized
    }
    alone = _shadows(plain, convs, rounded, precisions, shadow.graph.weights)
    recorder = Recorder(alone.graph, [*alone.exact.values(), *alone.rounded.values()], threads)
    noise, signal = dict.fromkeys(alone.exact, 0.0), dict.fromkeys(alone.exact, 0.0)
    sums: dict[str, NDArray[np.float64]] = {}
    values = dict.fromkeys(alone.exact, 0)
    for inputs in batches:
        maps = recorder.of(inputs)
        for name, number in alone.exact.items():
            exact = maps[number].astype(np.float64)
            noise[name] += float(np.square(maps[alone.rounded[name]] - exact).sum())
            signal[name] += float(np.square(exact).sum())
            sums[name] = sums.get(name, 0.0) + exact.sum(axis=(0, 2, 3))
            values[name] += exact[:, 0].size
    even = {name: float(np.square(each).sum()) / values[name] for name, each in sums.items()}
    return {
        name: OwnNoise(ratio(noise[name], signal[name]), ratio(noise[name], max(0.0, signal[name] - even[name])))
        for name in noise
    }


@dataclass(frozen=True)
class _Shadows:
    graph: LayerGraph
    exact: Mapping[str, int]
    rounded: Mapping[str, int]


def _shadows(
    plain: LayerGraph,
    convs: Sequence[Conv],
    rounded: Mapping[str, object],
    precisions: Mapping[int, Precision],
    weights: Mapping[str, Array],
) -> _Shadows:
    """The exact graph, and beside each conv the same with rounded weights that reads its input as bytes."""
    tensors, layers, made = list(plain.tensors), list(plain.layers), dict[str, int]()
    reals: dict[int, int] = {}
    for conv in convs:
        if conv.source not in reals:
            name, first = tensors[conv.source].name, len(tensors)
            tensors.append(replace(tensors[conv.source], name=f"{name}.bytes", precision=precisions[conv.source]))
            tensors.append(replace(tensors[conv.source], name=f"{name}.real"))
            layers += [Convert(f"{name}.bytes", conv.source, first), Convert(f"{name}.real", first, first + 1)]
            reals[conv.source] = first + 1
        other = rounded[conv.name]
        assert isinstance(other, Conv)
        made[conv.name] = len(tensors)
        tensors.append(replace(tensors[conv.target], name=f"{conv.name}.rounded"))
        layers.append(replace(other, name=f"{conv.name}.rounded", source=reals[conv.source], target=made[conv.name]))
    graph = replace(plain, tensors=tuple(tensors), layers=tuple(layers), weights={**plain.weights, **weights})
    return _Shadows(graph, {conv.name: conv.target for conv in convs}, made)
