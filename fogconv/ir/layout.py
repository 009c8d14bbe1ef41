"""Layouts, shards, and the one function that turns a layout into another: transfers by intersection.

    Layout    for each rank the disjoint regions of one tensor that it holds; ``partial`` when values are still to be summed
    Shard     a rank's part of one conv: the input region that it needs, the output region that it produces
    Transfer  one point-to-point message: a region, from one rank to another

Scatter, gather, broadcast, all-gather, reduce-scatter and halo exchange are all ``transfers(held, needed)``.
Pure functions; nothing here depends on a network, a kernel or a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fogconv.errors import GeometryError
from fogconv.ir.geometry import Region, Span, bounding, subtract

MASTER = 0
"""The master's rank."""


@dataclass(frozen=True, slots=True)
class Layout:
    """``regions[rank]`` are disjoint boxes of one tensor. Replicate: every rank has them all; On(r): only rank r has any."""

    regions: tuple[tuple[Region, ...], ...]
    partial: bool = False

    @property
    def ranks(self) -> int:
        return len(self.regions)

    def holders(self) -> tuple[int, ...]:
        return tuple(rank for rank, boxes in enumerate(self.regions) if boxes)

    def elements(self, rank: int) -> int:
        return sum(box.elements for box in self.regions[rank])


def on(rank: int, whole: Region, ranks: int) -> Layout:
    """The whole tensor on one rank."""
    return Layout(tuple((whole,) if r == rank else () for r in range(ranks)))


def replicate(whole: Region, ranks: int, only: Sequence[int] | None = None) -> Layout:
    """The whole tensor on every rank (or on those of ``only``)."""
    return Layout(tuple((whole,) if only is None or r in only else () for r in range(ranks)))


def shard_channels(whole: Region, spans: Sequence[Span]) -> Layout:
    """``spans[rank]`` of the channels on each rank; empty spans hold nothing."""
    return Layout(tuple((whole.with_channels(span),) if span else () for span in spans))


def shard_rows(whole: Region, spans: Sequence[Span]) -> Layout:
    """``spans[rank]`` of the rows on each rank; empty spans hold nothing."""
    return Layout(tuple((whole.with_rows(span),) if span else () for span in spans))


def merge(ours: Sequence[Region], theirs: Sequence[Region]) -> tuple[Region, ...]:
    """Disjoint boxes that cover both, given that these are disjoint; neighbours are merged into one box where that is
    exact."""
    boxes = list(ours)
    for new in theirs:
        for piece in subtract(new, boxes):
            _grow(boxes, piece)
    return tuple(sorted(boxes))


def _grow(boxes: list[Region], new: Region) -> None:
    for old in boxes:
        both = bounding([old, new])
        if both.elements == old.elements + new.elements:
            boxes.remove(old)
            _grow(boxes, both)
            return
    boxes.append(new)


@dataclass(frozen=True, slots=True)
class Transfer:
    """``region`` is sent from rank ``source`` to rank ``target``, and added there where the layout is partial."""

    source: int
    target: int
    region: Region


def transfers(held: Layout, needed: Layout) -> tuple[Transfer, ...]:
    """Every message that turns ``held`` into a layout that covers ``needed``.

    Where several ranks hold a piece, the one that sends least so far sends it. Of a partial layout every holder sends its
    part (a rank's own part stays). Raises GeometryError when no rank holds a needed piece.
    """
    sent = [0] * held.ranks
    moves: list[Transfer] = []
    for target, boxes in enumerate(needed.regions):
        for box in boxes:
            if held.partial:
                moves.extend(_partial_moves(held, target, box))
            else:
                moves.extend(_moves(held, target, box, sent))
    return tuple(moves)


def _partial_moves(held: Layout, target: int, box: Region) -> list[Transfer]:
    return [
        Transfer(source, target, common)
        for source, pieces in enumerate(held.regions)
        if source != target
        for piece in pieces
        if (common := piece & box)
    ]


def _moves(held: Layout, target: int, box: Region, sent: list[int]) -> list[Transfer]:
    moves = []
    missing = subtract(box, held.regions[target])
    while missing:
        first, *rest = missing
        offers = [
            (sent[source], source, common)
            for source, pieces in enumerate(held.regions)
            if source != target
            for piece in pieces
            if (common := piece & first)
        ]
        if not offers:
            raise GeometryError(f"no rank holds {first}, which rank {target} needs")
        _, source, common = min(offers, key=lambda offer: (offer[0], offer[1]))
        sent[source] += common.elements
        moves.append(Transfer(source, target, common))
        missing = (*first.minus(common), *rest)
    return moves
