"""Sharers: how few ranks may share the weights of a conv, so that no rank holds much more than its even share of them all.

The more groups divide a map's rows, the less of it travels, and the fewer ranks share the weights. What a rank may hold
beyond its even share goes where it saves most: to the convs with the most elements of their map per weight.
"""

from __future__ import annotations

from collections.abc import Mapping

from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv

SPARE = 1.0
"""A rank may hold its even share of all conv weights, and so many times that beyond it."""


def least_sharers(graph: LayerGraph, ranks: int) -> Mapping[str, int]:
    """Conv → the least number of ranks, of so many, that may share its weights. Linear layers' are not counted."""
    convs = {conv.name: conv for conv in graph.convs if not conv.linear}
    found = dict.fromkeys(convs, ranks)
    left = SPARE / ranks * sum(conv.spec.weight_elements for conv in convs.values())

    def beyond(conv: Conv, sharers: int) -> float:
        return conv.spec.weight_elements * (1 / sharers - 1 / ranks)

    bids = sorted(
        (beyond(conv, sharers) / graph.tensors[conv.source].region.elements, name, sharers)
        for name, conv in convs.items()
        for sharers in range(1, ranks)
    )
    for _, name, sharers in bids:
        more = beyond(convs[name], sharers) - beyond(convs[name], found[name])
        if more <= left:
            left -= more
            found[name] = sharers
    return found
