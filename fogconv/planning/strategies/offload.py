"""Offload: the whole layer on one rank that is not the master.

mode         needs                  gives
offload      On(rank)               On(rank)

With the master's own way (see `home`) the search is the shortest path over (layer × device), the result's return included.
A search by other families takes only the fastest rank into account, where it is faster than the master: of equal ranks one
alone gains nothing over the master alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from fogconv.ir.layers import Host, Layer
from fogconv.ir.layout import MASTER
from fogconv.ir.shard import Work
from fogconv.planning.strategies.family import Family, Way
from fogconv.planning.strategies.shares import Shares


def _ways(layer: Layer, shares: Shares) -> Iterator[Way]:
    assert not isinstance(layer, Host)
    for rank in shares.helpers:
        yield whole_on(layer, rank, shares)


def whole_on(layer: Layer, rank: int, shares: Shares) -> Way:
    """The layer on one rank alone."""
    assert not isinstance(layer, Host)
    return Way("local" if rank == MASTER else "offload", [Work(rank, shares.graph.tensors[layer.target].region)])


OFFLOAD = Family(_ways, frozenset(("auto", "offload")))
