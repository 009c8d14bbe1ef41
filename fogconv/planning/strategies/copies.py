"""Copies: every rank computes the whole layer, which saves sending the result to all of them.

mode         needs                  gives
copies       Replicate              Replicate
"""

from __future__ import annotations

from collections.abc import Iterator

from fogconv.ir.layers import Conv, Host, Layer
from fogconv.ir.shard import Work
from fogconv.planning.strategies.family import Family, Way
from fogconv.planning.strategies.shares import Shares


def _ways(layer: Layer, shares: Shares) -> Iterator[Way]:
    assert not isinstance(layer, Host)
    if not isinstance(layer, Conv) or shares.may_share(layer, 1):
        whole = shares.graph.tensors[layer.target].region
        yield Way("copies", [Work(rank, whole) for rank in shares.members])


COPIES = Family(_ways, frozenset(("auto", "depth")), heads=True)
