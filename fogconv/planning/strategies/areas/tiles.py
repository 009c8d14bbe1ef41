"""Tiles: each rank computes a tile of the output, or sums over one of the input; neighbours on all sides and at the corners
exchange halos.

mode         needs                       gives
tiles        Shard(H × W) with halo      Shard(H × W)
sums         Shard(H × W)                Partial → On(0), Replicate or Shard(C)     (global pooling)
"""

from __future__ import annotations

from collections.abc import Iterator

from fogconv.ir.layers import Layer
from fogconv.planning.strategies.areas.cell_ways import ways
from fogconv.planning.strategies.family import Family, Way
from fogconv.planning.strategies.shares import Shares


def _ways(layer: Layer, shares: Shares) -> Iterator[Way]:
    if shares.tiling is not None:
        yield from ways("tiles", layer, shares, shares.tiling)


TILES = Family(_ways, frozenset(("auto", "tiles")))
