"""LayoutBook: layouts by number, so that the planner compares and combines each pair only once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from fogconv.ir.geometry import Region, Span, bounding
from fogconv.ir.layout import Layout, merge, transfers
from fogconv.ir.shard import split
from fogconv.planning.cost import Prices, Traffic


class LayoutBook:
    """Numbers for layouts of one graph on one cluster; derived results are computed once.

    The derived functions are pure in the numbers: union, shifting along the channels, and the cost of turning one layout
    into another. ``special`` has the prices of tensors that are not sent as the others are: a picture, 8-bit maps.
    """

    def __init__(self, prices: Prices, special: Mapping[int, Prices] | None = None) -> None:
        self.prices = prices
        self._special = dict(special or {})
        self._layouts: list[Layout] = []
        self._numbers: dict[Layout, int] = {}
        self.union = cache(self._union)
        self.move = cache(self._move)
        self.relabel = cache(self._relabel)
        self.effort = 0
        """Pairs of boxes compared so far: the cost of the search, counted so that it is the same on every machine."""

    def number(self, layout: Layout) -> int:
        known = self._numbers.get(layout)
        if known is None:
            known = self._numbers[layout] = len(self._layouts)
            self._layouts.append(layout)
        return known

    def __getitem__(self, number: int) -> Layout:
        return self._layouts[number]

    def _union(self, a: int, b: int) -> int:
        """The layout after ``b`` was added to a tensor that was held as ``a``."""
        pairs = list(zip(self[a].regions, self[b].regions, strict=True))
        self.effort += sum(len(ours) * len(theirs) for ours, theirs in pairs)
        return self.number(Layout(tuple(merge(ours, theirs) for ours, theirs in pairs)))

    def _relabel(self, pieces: tuple[tuple[int, int], ...], whole: Region) -> int:
        """The layout of a tensor that consists of (layout, channel offset) pieces, clipped to ``whole``."""
        ranks = self[pieces[0][0]].ranks
        held: list[tuple[Region, ...]] = [()] * ranks
        for number, offset in pieces:
            for rank, boxes in enumerate(self[number].regions):
                shifted = tuple(box for old in boxes if (box := old.shift_channels(offset) & whole))
                held[rank] = merge(held[rank], shifted)
        return self.number(Layout(tuple(held)))

    def moved(self, tensor: int, held: int, needed: int) -> tuple[Traffic, Traffic | None, int | None]:
        """``move`` of this tensor."""
        return self.move(held, needed, self._special.get(tensor))

    def _move(self, held: int, needed: int, special: Prices | None = None) -> tuple[Traffic, Traffic | None, int | None]:
        """The traffic that turns ``held`` into ``needed``. Where one card has everything and it is faster to scatter first
        and exchange then: the traffic of both steps, and the number of the layout between them."""
        have, want = self[held], self[needed]
        prices = special or self.prices
        self.effort += sum(map(len, have.regions)) * sum(map(len, want.regions))
        moves = transfers(have, want)
        direct = prices.traffic(moves)
        via = self._scatter(have, want)
        if via is None:
            return direct, None, None
        first = prices.traffic(transfers(have, self[via]))
        second = prices.traffic(transfers(self[self.union(held, via)], want))
        if first.seconds + second.seconds < direct.seconds:
            return first, second, via
        return direct, None, None

    def _scatter(self, have: Layout, want: Layout) -> int | None:
        """A layout of equal parts of the region that several ranks need, if only one rank has it."""
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
