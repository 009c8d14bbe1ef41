"""Segments: layers between two exchanges of rows, as DeepThings fuses them (Zhao et al. 2018).

Ranks exchange rows at the start of a segment only. Within it a rank computes, beyond its own rows, those that the rest of
the segment reads: more work, and fewer messages. A segment ends after so many stages (`fogconv.ir.stages`), and where the
maps' height changes. It is never so long that a rank would need rows from beyond its neighbours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from fogconv.ir.geometry import Span
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Host
from fogconv.ir.shard import Work
from fogconv.ir.stages import stages

Cuts = Callable[[int], Sequence[Span]]
"""A map's height → the rows of each rank."""


def fused_rows(graph: LayerGraph, cuts: Cuts, most_stages: int) -> Mapping[str, tuple[Span, ...]]:
    """Layer → the rows of its output that each rank computes, with segments of at most so many stages."""
    segments = _segments(graph, cuts, most_stages)
    made_in = {tensor: segments[index] for index, layer in enumerate(graph.layers) for tensor in layer.writes}
    wanted: dict[tuple[int, int], Span] = defaultdict(lambda: Span(0, 0))
    found: dict[str, tuple[Span, ...]] = {}

    def want(tensor: int, rank: int, rows: Span, segment: int) -> None:
        if made_in.get(tensor) == segment:
            wanted[tensor, rank] = _hull(wanted[tensor, rank], rows)

    for stage in reversed(stages(graph)):
        for index in reversed(stage):
            layer, segment = graph.layers[index], segments[index]
            if isinstance(layer, Host):
                continue
            if layer.relabels:
                [target] = layer.writes
                for source, _ in layer.pieces(graph.tensors):
                    for rank in range(len(cuts(1))):
                        want(source, rank, wanted[target, rank], segment)
                continue
            whole = graph.tensors[layer.target].region
            own = cuts(len(whole.rows))
            rows = [span and _hull(span, wanted[layer.target, rank]) for rank, span in enumerate(own)]
            found[layer.name] = tuple(rows)
            for rank, span in enumerate(rows):
                for tensor, region in layer.needs_if_any(graph.tensors, Work(rank, whole.with_rows(span))) if span else ():
                    want(tensor, rank, region.rows, segment)
    return found


def _hull(one: Span, other: Span) -> Span:
    if not (one and other):
        return one or other
    return Span(min(one.start, other.start), max(one.stop, other.stop))


def _segments(graph: LayerGraph, cuts: Cuts, most_stages: int) -> Mapping[int, int]:
    """Layer → the number of its segment."""
    found: dict[int, int] = {}
    segment, so_far, height = 0, 0, 1
    for stage in stages(graph):
        heights = [graph.tensors[tensor].height for index in stage for tensor in graph.layers[index].writes]
        lowest = min(heights, default=height)
        fewest = min((len(span) for span in cuts(lowest) if span), default=1)
        if lowest != height or so_far >= min(most_stages, fewest):
            segment, so_far, height = segment + 1, 0, lowest
        so_far += 1
        found |= dict.fromkeys(stage, segment)
    return found
