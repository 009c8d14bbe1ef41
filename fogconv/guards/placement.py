"""Adding a Guard to a layer's placement, and the inputs of the guard's ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from fogconv.ir.geometry import Region
from fogconv.ir.graph import LayerGraph
from fogconv.ir.guard import Guard, Protection
from fogconv.ir.layers import Conv, Layer
from fogconv.ir.layout import MASTER
from fogconv.ir.plan import Placement
from fogconv.ir.shard import Work, conv_grid
from fogconv.values import table

LEAST_PATIENCE_S = 0.05
"""A shorter patience would count the system's normal pauses as stalls."""


def guardable(layer: Layer, placement: Placement) -> bool:
    """Whether this layer can be guarded: the star's convs. The master has their input, and receives every piece."""
    return isinstance(layer, Conv) and placement.mode == "star"


def guard_placement(
    layer: Layer,
    placement: Placement,
    protection: Protection,
    *,
    coder: int | None = None,
    ranks: Sequence[int] = (),
    weights: Sequence[float] = (),
    expected_s: float = 0.0,
) -> Placement:
    """The same placement with its pieces raw and guarded; unchanged where it can't be guarded or the master computes all
    of it.

    A code (of rank ``coder``) sums pieces of one input: with it, a dense conv is split by output channels among ``ranks``
    as the ``weights`` say. Other convs get no code. ``expected_s``: what the layer takes; patience is a multiple of it.
    """
    if not (protection and guardable(layer, placement)):
        return placement
    assert isinstance(layer, Conv)
    work = tuple(replace(one, raw=True) for one in placement.work)
    split = placement.split
    if coder is not None and layer.spec.groups == 1:
        work = tuple(Work(shard.rank, shard.output, raw=True) for shard in conv_grid(layer.spec, ranks, 1, weights))
        split = f"output:{len(work)}+1"
    else:
        coder = None
    if all(one.rank == MASTER for one in work):
        return placement
    patience_s = 0.0
    if protection.patience:
        asked_s = protection.patience * expected_s
        patience_s = min(max(LEAST_PATIENCE_S, asked_s), table.MESSAGE_TIME.most)
    return replace(placement, work=work, split=split, guard=Guard(protection.verify, coder, patience_s))


def extra_reads(graph: LayerGraph, layer: Layer, placement: Placement) -> Iterator[tuple[int, int, Region]]:
    """(rank, tensor, region) of the inputs of a layer's guard, beside those of its work. The master reads the inputs of
    every piece, to replace it; the coder reads all inputs.
    """
    guard = placement.guard
    if guard is None:
        return
    for work in placement.work:
        for tensor, region in layer.needs(graph.tensors, work):
            yield MASTER, tensor, region
            if guard.code is not None:
                yield guard.code, tensor, graph.tensors[tensor].region
