"""Stages: an order of a graph's layers in which layers can share messages.

A layer's stage is the number of layers on the longest way to it that read beyond their own rows (convs and pools with a
kernel higher than one). The branches of an Inception cell then exchange data together: everything that the layers of a
stage need of earlier stages' results goes from one rank to another in one message; layer by layer there would be one per
branch.
"""

from __future__ import annotations

from collections import defaultdict

from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Host


def stages(graph: LayerGraph) -> tuple[tuple[int, ...], ...]:
    """Indices of layers, each after all that it reads. Graphs with layers that run in torch keep their own order, one by
    one: values that those layers pass to each other are not in the graph."""
    if any(isinstance(layer, Host) for layer in graph.layers):
        return one_by_one(graph)
    made: dict[int, int] = dict.fromkeys(graph.given, 0)
    found: dict[int, list[int]] = defaultdict(list)
    for index, layer in enumerate(graph.layers):
        stage = max((made[tensor] for tensor in layer.reads), default=0) + layer.reaches
        made |= dict.fromkeys(layer.writes, stage)
        found[stage].append(index)
    return tuple(tuple(found[stage]) for stage in sorted(found))


def one_by_one(graph: LayerGraph) -> tuple[tuple[int, ...], ...]:
    """The graph's own order, one layer per stage."""
    return tuple((index,) for index in range(len(graph.layers)))


def made_before(graph: LayerGraph, stage: tuple[int, ...]) -> frozenset[int]:
    """The tensors that a stage's layers read and none of them writes: they exist before the stage begins."""
    own = {tensor for index in stage for tensor in graph.layers[index].writes}
    return frozenset(tensor for index in stage for tensor in graph.layers[index].reads if tensor not in own)
