"""Grid: the ways to compute a layer by the cells of a tiling, each rank its own, or with what fused layers read around."""

from __future__ import annotations

from collections.abc import Iterator

from fogconv.ir.geometry import Region
from fogconv.ir.layers import Host, Layer
from fogconv.ir.shard import Work
from fogconv.planning.limits.tiling import Tiling
from fogconv.planning.strategies.family import Way
from fogconv.planning.strategies.shares import Shares

MOST_FUSED = 3
"""The most layers in a row that read beyond their own pixels without an exchange. With more no plan became faster, on links
of 0.1 to 1 Gbit/s and 0.2 to 5 ms."""
MOST_REPEATED = 1.6
"""Cells that are together so many times as large as the map are not tried: an exchange is cheaper on any network."""


def ways(mode: str, layer: Layer, shares: Shares, tiling: Tiling) -> Iterator[Way]:
    assert not isinstance(layer, Host)
    whole = shares.graph.tensors[layer.target].region
    if whole.shape[1:] != (1, 1):
        found: dict[tuple[tuple[int, Region], ...], None] = {}
        for aligned in (False, True):
            for fused in range(MOST_FUSED + 1):
                regions = shares.cells.fused(tiling, layer.target, fused, aligned)
                if fused and sum(region.elements for region in regions.values()) > MOST_REPEATED * whole.elements:
                    break
                found[tuple(regions.items())] = None
        for each in found:
            yield Way(mode, [Work(rank, region) for rank, region in each], overlaps=True)
    if shares.may_sum(layer):
        parts = shares.cells.of(tiling, layer.reads[0], False).items()
        works = [Work(rank, whole, rows=cell.rows, columns=cell.columns) for rank, cell in parts]
        yield Way("sums", works, ("M", "R", "C"))
