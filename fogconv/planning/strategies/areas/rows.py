"""Rows: each rank computes some of the output's rows, or sums over some of the input's.

mode         needs                  gives
rows         Shard(H) with halo     Shard(H)
sums         Shard(H)               Partial → On(0), Replicate or Shard(C)     (global pooling)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fogconv.ir.geometry import Region, Span
from fogconv.ir.layers import Conv, Host, Layer
from fogconv.ir.shard import Work
from fogconv.planning.strategies.family import Family, Way
from fogconv.planning.strategies.shares import Shares

MOST_OVERLAP = 3
"""The rows that three consecutive 3×3 convs read beyond a rank's own."""


def _ways(layer: Layer, shares: Shares) -> Iterator[Way]:
    assert not isinstance(layer, Host)
    if isinstance(layer, Conv) and not shares.may_share(layer, 1):
        return
    whole = shares.graph.tensors[layer.target].region
    if whole.shape[1:] != (1, 1) and shares.fused:
        spans = shares.fused_spans[layer.name]
        yield Way("rows", [Work(rank, whole.with_rows(span)) for rank, span in enumerate(spans) if span], overlaps=True)
    elif whole.shape[1:] != (1, 1):
        height = len(whole.rows)
        for spans in dict.fromkeys((shares.row_spans(height), shares.aligned_spans(height))):
            fewest = min(len(span) for span in spans if span)
            for overlap in range(1 + min(MOST_OVERLAP, fewest // 2)):
                yield Way("rows", _overlapping(whole, spans, overlap), overlaps=True)
            drift = shares.drift(layer)
            if 0 < drift < fewest:
                yield Way("rows", _overlapping(whole, _drifted(spans, drift), 0), overlaps=True)
    if shares.may_sum(layer):
        spans = shares.row_spans(shares.graph.tensors[layer.reads[0]].height)
        yield Way("sums", [Work(rank, whole, rows=span) for rank, span in enumerate(spans) if span], ("M", "R", "C"))


def _drifted(spans: Sequence[Span], rows: int) -> tuple[Span, ...]:
    """All cuts moved down by so many rows.

    Where the output's cuts are lower than the input's, everything that a rank lacks comes from the one neighbour below,
    in one message instead of one from each side; the next such conv may move the cuts back, with rows from above. The 1×1
    convs between them and the residual sum use the moved cuts.
    """
    top, bottom = min(span.start for span in spans), max(span.stop for span in spans)
    return tuple(
        span and Span(span.start + (rows if span.start != top else 0), span.stop + (rows if span.stop != bottom else 0))
        for span in spans
    )


def _overlapping(whole: Region, spans: Sequence[Span], overlap: int) -> list[Work]:
    """Each rank's rows, and ``overlap`` of its neighbours' on either side."""
    return [
        Work(rank, whole.with_rows(Span(span.start - overlap, span.stop + overlap) & whole.rows))
        for rank, span in enumerate(spans)
        if span
    ]


ROWS = Family(_ways, frozenset(("auto", "depth", "rows")))
