"""Channels: each rank computes some of the output channels, or sums over some of the input channels.

mode         needs                  gives
output       Replicate              Shard(C)
input        Shard(C)               Partial → On(0), Replicate, Shard(C) or Shard(H)
groups       Shard(C)               Shard(C)         (grouped and depthwise convs, along whole groups)
channels     Shard(C)               Shard(C)         (every layer that works channel by channel)
"""

from __future__ import annotations

from collections.abc import Iterator

from fogconv.ir.layers import Conv, Host, Layer
from fogconv.ir.shard import Work
from fogconv.planning.strategies.family import Family, Way
from fogconv.planning.strategies.shares import Shares


def _ways(layer: Layer, shares: Shares) -> Iterator[Way]:
    assert not isinstance(layer, Host)
    target = layer.target
    whole = shares.graph.tensors[target].region
    by_channels = [Work(rank, whole.with_channels(span)) for rank, span in enumerate(shares.channel_spans(target)) if span]
    if not isinstance(layer, Conv):
        if layer.by_channels:
            yield Way("channels", by_channels)
    elif layer.spec.groups > 1:
        yield Way("groups", by_channels)
    else:
        yield Way("output", by_channels)
        by_depth = [Work(rank, whole, depth=s) for rank, s in enumerate(shares.channel_spans(layer.source)) if s]
        in_rows = not shares.dealt and whole.shape[1:] != (1, 1)
        yield Way("input", by_depth, ("M", "R", "C", "H") if in_rows else ("M", "R", "C"))


CHANNELS = Family(_ways, frozenset(("auto", "depth")), heads=True)
