"""Family: ways of one kind, and the schemes that may use them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from fogconv.ir.layers import Layer
from fogconv.ir.shard import Work
from fogconv.planning.strategies.shares import Shares

Scheme = Literal["auto", "depth", "rows", "columns", "tiles", "offload", "local"]

WHOLE: frozenset[Scheme] = frozenset(("offload", "local"))
"""The schemes that cut no layer."""

UNSUMMED: Sequence[str] = ("",)
"""The kinds of a way whose result stays where it is computed."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to divide a layer, before its cost is known.

    ``kinds`` are the layouts (M, R, C or H, see `Shares.layout`) in which a partial result can be summed: each is one
    option. ``overlaps``: work that needs no neighbour's rows can be done while those are being sent.
    """

    mode: str
    work: Sequence[Work]
    kinds: Sequence[str] = UNSUMMED
    overlaps: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """``ways`` returns those of one layer. It is used in the searches of ``schemes``; with ``heads`` also in every other
    search that cuts layers, for those whose result is one pixel: it needs a way through a network's head."""

    ways: Callable[[Layer, Shares], Iterable[Way]]
    schemes: frozenset[Scheme]
    heads: bool = False

    def serves(self, scheme: Scheme, single_pixel: bool) -> bool:
        return scheme in self.schemes or (self.heads and single_pixel and scheme not in WHOLE)
