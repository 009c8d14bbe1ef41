"""Family: ways of one kind, and the schemes that may take them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from fogconv.ir.graph import Layer
from fogconv.ir.shard import Work
from fogconv.planning.strategies.shares import Shares

Scheme = Literal["auto", "depth", "rows", "local"]

UNSUMMED: Sequence[str] = ("",)
"""The kinds of a way whose result stays where it is made."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to share out a layer, not priced yet.

    ``kinds`` are the layouts (M, R, C or H, see `Shares.layout`) in which a partial result can be summed: each makes an
    option. ``overlaps``: what needs no neighbour's rows can be done while those are on their way.
    """

    mode: str
    work: Sequence[Work]
    kinds: Sequence[str] = UNSUMMED
    overlaps: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """``ways`` gives those of one layer. It is asked in the searches of ``schemes``; with ``heads`` in every search also for
    layers whose result is one pixel: each needs a way through a network's head."""

    ways: Callable[[Layer, Shares], Iterable[Way]]
    schemes: frozenset[Scheme]
    heads: bool = False

    def serves(self, scheme: Scheme, single_pixel: bool) -> bool:
        return scheme in self.schemes or (self.heads and single_pixel)
