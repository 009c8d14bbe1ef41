"""LayoutBook: layouts by number, so that the planner can compare and combine them without looking inside twice."""

from __future__ import annotations

from functools import cache

from fogconv.ir.geometry import Region, Span, bounding
from fogconv.ir.graph import Concat, LayerGraph, Slice
from fogconv.ir.layout import Layout, merge, transfers
from fogconv.ir.shard import split
from fogconv.planning.cost import Prices, Traffic


class LayoutBook:
    """Numbers for layouts of one graph on one cluster; what is derived from them is worked out once.

    The derived functions are pure in the numbers: union, shifting along the channels, and the price of turning one
    layout into another.
    """

    def __init__(self, prices: Prices) -> None:
        self.prices = prices
        self._layouts: list[Layout] = []
        self._numbers: dict[Layout, int] = {}
        self.union = cache(self._union)
        self.move = cache(self._move)
        self.relabel = cache(self._relabel)
        self.effort = 0
        """Pairs of boxes compared so far: what the search costs, counted so that it is the same on every machine."""

    def number(self, layout: Layout) -> int:
        known = self._numbers.get(layout)
        if known is None:
            known = self._numbers[layout] = len(self._layouts)
            self._layouts.append(layout)
        return known

    def __getitem__(self, number: int) -> Layout:
        return self._layouts[number]

    def _union(self, a: int, b: int) -> int:
        """What is held after ``b`` was brought to a tensor that was held as ``a``."""
        pairs = list(zip(self[a].regions, self[b].regions, strict=True))
        self.effort += sum(len(ours) * len(theirs) for ours, theirs in pairs)
        return self.number(Layout(tuple(merge(ours, theirs) for ours, theirs in pairs)))

    def _relabel(self, pieces: tuple[tuple[int, int], ...], whole: Region) -> int:
        """A tensor that consists of (layout, channel offset) pieces; outside ``whole`` nothing counts."""
        ranks = self[pieces[0][0]].ranks
        held: list[tuple[Region, ...]] = [()] * ranks
        for number, offset in pieces:
            for rank, boxes in enumerate(self[number].regions):
                shifted = tuple(box for old in boxes if (box := old.shift_channels(offset) & whole))
                held[rank] = merge(held[rank], shifted)
        return self.number(Layout(tuple(held)))

    def _move(self, held: int, needed: int) -> tuple[Traffic, Traffic | None, int | None]:
        """The traffic that brings ``needed`` to where ``held`` is; with the detour over a layout (its number) where
        scattering first and exchanging then relieves the one card that has it all."""
        have, want = self[held], self[needed]
        self.effort += sum(map(len, have.regions)) * sum(map(len, want.regions))
        moves = transfers(have, want)
        direct = self.prices.traffic(moves)
        via = self._scatter(have, want)
        if via is None:
            return direct, None, None
        first = self.prices.traffic(transfers(have, self[via]))
        second = self.prices.traffic(transfers(self[self.union(held, via)], want))
        if first.seconds + second.seconds < direct.seconds:
            return first, second, via
        return direct, None, None

    def _scatter(self, have: Layout, want: Layout) -> int | None:
        """Equal parts of what several ranks want, if only one rank has it."""
        if have.partial or len(have.holders()) != 1:
            return None
        wanting = [rank for rank, boxes in enumerate(want.regions) if boxes and rank != have.holders()[0]]
        if len(wanting) < 2:
            return None
        common = bounding([box for rank in wanting for box in want.regions[rank]])
        if any(want.regions[rank] != (common,) for rank in wanting):
            return None
        axis = common.rows if len(common.rows) >= len(wanting) else common.channels
        spans = split(len(axis), [1.0] * len(wanting))
        regions: list[tuple[Region, ...]] = [()] * have.ranks
        for rank, span in zip(wanting, spans, strict=True):
            if span:
                part = Span(axis.start + span.start, axis.start + span.stop)
                regions[rank] = (common.with_rows(part) if axis is common.rows else common.with_channels(part),)
        return self.number(Layout(tuple(regions)))


def relabelled(graph: LayerGraph, layer: Concat | Slice) -> tuple[tuple[int, int], ...]:
    """(tensor, channel offset) of the pieces that a concatenation or slice consists of."""
    if isinstance(layer, Slice):
        return ((layer.source, -layer.start),)
    pieces, at = [], 0
    for source in layer.sources:
        pieces.append((source, at))
        at += graph.tensors[source].channels
    return tuple(pieces)
