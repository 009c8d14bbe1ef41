"""Group: the ranks that compute a stage together, mostly one. Of several, each has some rows of every map, by its rate; what
has no rows is computed by the first one.

Their weights are the same, their maps are parts, and a frame stays there for a shorter time: fewer frames need to be in
flight, which takes less memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from fogconv.ir.geometry import Region
from fogconv.ir.layout import MASTER
from fogconv.ir.shard import Work, split

Group = tuple[int, ...]


def group_work(whole: Region, group: Group, rates: Sequence[float]) -> tuple[Work, ...]:
    """Who computes which part of a map."""
    if not in_rows(whole, group):
        return (Work(group[0], whole),)
    spans = split(len(whole.rows), rates)
    return tuple(Work(rank, whole.with_rows(span)) for rank, span in zip(group, spans, strict=True) if span)


def in_rows(whole: Region, group: Group) -> bool:
    return len(group) > 1 and whole.shape[1:] != (1, 1)


def ways(order: Sequence[int], together: int) -> list[list[Group]]:
    """The orders in which a frame may pass the ranks: the first workers, so many, as one group, and the others one by one.
    The master has each frame first, and its result at the end; what it computes takes memory for all frames in flight."""
    if len(order) == 1 or order[0] != MASTER:
        return [[tuple(order[:together]), *((rank,) for rank in order[together:])]]
    master, workers = (MASTER,), order[1:]
    passed: list[Group] = [tuple(workers[:together]), *((rank,) for rank in workers[together:])]
    return [[master, *passed, master], [*passed, master], [master, *passed], passed]
