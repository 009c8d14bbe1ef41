"""Stages: the layers of a graph in an order in which messages can be shared.

A layer's stage is the number of layers on the longest way to it that read beyond their own rows (convs and pools with a
kernel higher than one). The branches of an Inception cell then take their exchanges together: whatever the layers of a stage
need of what earlier stages made goes from one rank to another in one message, where layer by layer would send one per
branch.
"""

from __future__ import annotations

from collections import defaultdict

from fogconv.ir.graph import Host, LayerGraph


def stages(graph: LayerGraph) -> tuple[tuple[int, ...], ...]:
    """Indices of layers, each after all that it reads. With layers that run in torch the graph's own order stays, one by
    one: what those hand on among themselves is not in the graph."""
    if any(isinstance(layer, Host) for layer in graph.layers):
        return one_by_one(graph)
    made: dict[int, int] = {graph.input: 0}
    found: dict[int, list[int]] = defaultdict(list)
    for index, layer in enumerate(graph.layers):
        stage = max((made[tensor] for tensor in layer.reads), default=0) + layer.reaches
        made |= dict.fromkeys(layer.writes, stage)
        found[stage].append(index)
    return tuple(tuple(found[stage]) for stage in sorted(found))


def one_by_one(graph: LayerGraph) -> tuple[tuple[int, ...], ...]:
    """The graph's own order."""
    return tuple((index,) for index in range(len(graph.layers)))


def made_before(graph: LayerGraph, stage: tuple[int, ...]) -> frozenset[int]:
    """The tensors that a stage's layers read and none of them writes: they are there before it begins."""
    own = {tensor for index in stage for tensor in graph.layers[index].writes}
    return frozenset(tensor for index in stage for tensor in graph.layers[index].reads if tensor not in own)
