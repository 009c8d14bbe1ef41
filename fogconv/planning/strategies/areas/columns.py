"""Columns: each rank computes some of the output's columns, or sums over some of the input's.

mode         needs                  gives
columns      Shard(W) with halo     Shard(W)
sums         Shard(W)               Partial → On(0), Replicate or Shard(C)     (global pooling)
"""

from __future__ import annotations

from collections.abc import Iterator

from fogconv.ir.layers import Layer
from fogconv.planning.limits.tiling import Tiling
from fogconv.planning.strategies.areas.cell_ways import ways
from fogconv.planning.strategies.family import Family, Way
from fogconv.planning.strategies.shares import Shares


def _ways(layer: Layer, shares: Shares) -> Iterator[Way]:
    return ways("columns", layer, shares, Tiling(1, len(shares.members)))


COLUMNS = Family(_ways, frozenset(("columns",)))
