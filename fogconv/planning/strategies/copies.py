"""Copies: every rank computes the whole layer, which saves sending the result to all of them.

mode         needs                  gives
copies       Replicate              Replicate
"""

from __future__ import annotations

from collections.abc import Iterator

from fogconv.ir.graph import Conv, Host, Layer
from fogconv.ir.shard import Work
from fogconv.planning.strategies.family import Family, Way
from fogconv.planning.strategies.shares import Shares

COPIED_SHARE = 0.01
"""A share of the model's conv weights: a layer with more is not copied where a scheme divides the weights."""


def _ways(layer: Layer, shares: Shares) -> Iterator[Way]:
    assert not isinstance(layer, Host)
    if not (shares.dealt and _weighty(layer, shares)):
        whole = shares.graph.tensors[layer.target].region
        yield Way("copies", [Work(rank, whole) for rank in shares.members])


def _weighty(layer: Layer, shares: Shares) -> bool:
    """Whether copies of a layer's weights would outweigh the memory saved by splitting the others."""
    if not isinstance(layer, Conv) or layer.linear:
        return False
    return layer.spec.weight_elements > COPIED_SHARE * shares.conv_weights


COPIES = Family(_ways, frozenset(("auto", "depth")), heads=True)
