"""Whole noise: what has gathered at each layer, and at the first output, where all that can be is on bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fogconv.ir.arrays import Array
from fogconv.ir.graph import LayerGraph
from fogconv.quantization.marking import Marked
from fogconv.quantization.noise.own import ratio
from fogconv.quantization.recorder import Recorder


@dataclass(frozen=True)
class Whole:
    noise: Mapping[str, float]
    output: float
    agreement: float


def whole_errors(plain: LayerGraph, found: Marked, batches: Sequence[Sequence[Array]], threads: int) -> Whole:
    """The noise ÷ signal of each layer's result, and of the first output, where all that can be is on bytes."""
    exact, rounded = Recorder(plain, threads=threads), Recorder(found.graph, threads=threads)
    places = {layer.name: layer.writes[0] for layer in found.graph.layers if layer.writes}
    pairs = {layer.name: (layer.writes[0], places[layer.name]) for layer in plain.layers if layer.writes}
    first, last = plain.outputs[0].tensor, found.graph.outputs[0].tensor
    if first is not None and last is not None:
        pairs[""] = (first, last)
    noise, signal, same = dict.fromkeys(pairs, 0.0), dict.fromkeys(pairs, 0.0), 0
    images = 0
    for inputs in batches:
        one, other = exact.of(inputs), rounded.of(inputs)
        for name, (a, b) in pairs.items():
            values = one[a].astype(np.float64)
            noise[name] += float(np.square(other[b] - values).sum())
            signal[name] += float(np.square(values).sum())
        if first is not None and last is not None:
            images += len(one[first])
            scores = (one[first].reshape(len(one[first]), -1), other[last].reshape(len(other[last]), -1))
            same += int(np.sum(scores[0].argmax(axis=1) == scores[1].argmax(axis=1)))
    ratios = {name: ratio(noise[name], signal[name]) for name in pairs}
    return Whole(ratios, ratios.pop("", 0.0), same / images if images else 1.0)
