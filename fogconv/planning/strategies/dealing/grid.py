"""Grid: groups of ranks divide the rows, and the ranks of a group divide the channels.

A rank needs all channels of its group's rows: most of them from the few ranks of its group, the rows between two groups from
the other one. With p groups of n ranks each rank receives a p-th of what it would need of a map that only channels divide,
and n/p ranks share a layer's weights. p need not divide n: two groups of five ranks are of two and of three.

mode         needs                                    gives
grid         Shard(H) with halo, all channels         Shard(H) × Shard(C)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

from fogconv.ir.geometry import Span
from fogconv.ir.layers import Conv, Host, Layer
from fogconv.ir.shard import Work, split, split_channels
from fogconv.planning.strategies.family import Family, Way
from fogconv.planning.strategies.shares import Shares

UNITS_PER_GROUP = 3
"""Aligned cuts are at multiples of at most 1/3 of a group's share."""

Groups = tuple[tuple[int, ...], ...]
"""The ranks of each group, from the top rows to the bottom ones."""


def _ways(layer: Layer, shares: Shares) -> Iterator[Way]:
    assert not isinstance(layer, Host)
    whole = shares.graph.tensors[layer.target].region
    if whole.shape[1:] == (1, 1) or not (_dense(layer) or layer.by_channels):
        return
    for groups in groupings(shares.places):
        if isinstance(layer, Conv) and not shares.may_share(layer, min(map(len, groups))):
            continue
        for spans in dict.fromkeys(row_spans(len(whole.rows), [shares.rate(group) for group in groups])):
            work = [
                Work(rank, whole.with_rows(rows).with_channels(channels))
                for rows, group in zip(spans, groups, strict=True)
                for rank, channels in zip(group, _channels(len(whole.channels), group, shares), strict=True)
                if rows and channels
            ]
            yield Way("grid", work)


def _dense(layer: Layer) -> bool:
    return isinstance(layer, Conv) and layer.spec.groups == 1


def _channels(channels: int, group: Sequence[int], shares: Shares) -> tuple[Span, ...]:
    return split_channels(channels, [shares.rate([rank]) for rank in group])


def groupings(ranks: Sequence[int]) -> Iterator[Groups]:
    """Two groups of the ranks, of as nearly the same number as possible, then three, and so on: not yet one for each rank,
    which is to divide the rows only."""
    for count in range(2, len(ranks)):
        sizes = map(len, split(len(ranks), [1.0] * count, order=range(count - 1, -1, -1)))
        yield tuple(tuple(ranks[start:stop]) for start, stop in pairwise(accumulate(sizes, initial=0)))


def row_spans(height: int, rates: Sequence[float]) -> Iterator[tuple[Span, ...]]:
    """The division of rows by the groups' rates: to the row, and in units that stay whole when a map is halved a few times,
    such as tiles of 4 rows."""
    yield split(height, rates)
    units = height
    while units % 2 == 0 and units // 2 >= UNITS_PER_GROUP * len(rates):
        units //= 2
    yield split(height, rates, height // units)


GRID = Family(_ways, frozenset(("depth",)))
