"""Sensitive layers: those that spoil the answer, however exact they are by themselves.

Where a depthwise conv finds edges in a nearly even channel, the steps of the bytes it reads are as large as what it looks
for, and small beside the values themselves. So, where the answer has much noise, the layers of most noise beside what their
results vary by are put back into fp32 in turn. Those without which much of the answer's noise is gone stay there.

Only depthwise convs: they have few of the multiply-adds, and are never cut into partial sums, whose rounding in fp32 would
depend on the cut. So a distributed run still gives the bits of one device.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from fogconv.ir.arrays import Array
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv
from fogconv.quantization.marking import Marked, on_bytes
from fogconv.quantization.noise.own import OwnNoise
from fogconv.quantization.recorder import Recorder

ANSWER_SHARE = 1 / 6
"""Of the tolerance: the noise ÷ signal from which on the answer has much."""
LAYER_SHARE = 0.25
"""Of the answer's noise, in squares, that must be gone without a layer."""
MOST_EXACT = 0.05
"""Of the multiply-adds, that stay in fp32 for the answer's sake."""
TRIED, PICTURES = 4, 8
"""Layers that are put back, and pictures that are computed with each of them."""


def sensitive(
    plain: LayerGraph,
    exact: frozenset[str],
    own: Mapping[str, OwnNoise],
    mark: Callable[[frozenset[str]], Marked],
    batches: Sequence[Sequence[Array]],
    tolerance: float,
    threads: int,
) -> frozenset[str]:
    """The depthwise convs to keep in fp32 for the first output's sake, beside those that are ``exact`` already: they have
    `MOST_EXACT` of the multiply-adds at most. ``mark`` makes a graph in which the layers of some names are on bytes."""
    answer = plain.outputs[0].tensor
    if answer is None:
        return frozenset()
    tried = batches[:PICTURES]
    recorder = Recorder(plain, [answer], threads)
    answers = [recorder.of(inputs)[answer].astype(np.float64) for inputs in tried]
    signal = sum(float(np.square(each).sum()) for each in answers)

    def noise(without: frozenset[str]) -> float:
        """In squares."""
        graph = mark(on_bytes(plain, without)).graph
        number = graph.outputs[0].tensor
        assert number is not None
        rounded = Recorder(graph, [number], threads)
        pairs = zip(tried, answers, strict=True)
        return sum(float(np.square(rounded.of(inputs)[number] - each).sum()) for inputs, each in pairs)

    before = noise(exact)
    if before <= (ANSWER_SHARE * tolerance) ** 2 * signal:
        return frozenset()
    macs = {layer.name: layer.spec.macs for layer in plain.layers if isinstance(layer, Conv)}
    depthwise = {layer.name for layer in plain.layers if isinstance(layer, Conv) and layer.spec.depthwise}
    kept, total = on_bytes(plain, exact), sum(macs.values())

    def few(names: Collection[str]) -> bool:
        return sum(macs[name] for name in names) <= MOST_EXACT * total

    cheap = [name for name in macs if name in kept and name in depthwise and few({name})]
    worst = sorted(cheap, key=lambda name: -own[name].of_variation)[:TRIED]
    left = {name: noise(exact | {name}) for name in worst}
    found = frozenset[str]()
    for name in sorted(worst, key=lambda name: left[name]):
        if left[name] <= (1 - LAYER_SHARE) * before and few(found | {name}):
            found |= {name}
    return found
