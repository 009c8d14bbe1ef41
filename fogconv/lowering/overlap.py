"""Interior first: what a rank can compute of its rows before its neighbours' rows arrive.

With the interior first and the border last, the border rows travel while the next interior is computed: an exchange
delays a rank only if it takes longer than that.

Tried: the same along the channels, a conv summing its input's channels in portions, its own first and the others' as they
come. Each portion passes over the result once more; where processors are slower than links that cost more than the waiting:
VGG-16 on five nodes of 0.1 core took as long with it as without (depth: 1.02 s, without 0.96).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fogconv.errors import GeometryError
from fogconv.ir.geometry import ConvSpec, Region, Span
from fogconv.ir.graph import Conv, LayerGraph
from fogconv.ir.shard import Work

TILE = 4
"""Rows of a Winograd tile: cuts fall on its multiples, so that no tile is computed twice."""

LEAST_SHARE = 0.4
"""A smaller interior hides too little to be worth two more kernel calls."""

LEAST_WORK = 2_000_000
"""MACs of an interior that is worth it."""


def hidden_share(spec: ConvSpec, rows: int) -> float:
    """Of a shard of so many output rows, the share that can be computed before the neighbours' rows are here."""
    halo = spec.dilation[0] * (spec.kernel[0] - 1) // 2
    if not halo:
        return 0.0
    border = -(-halo // (TILE if _tiled(spec) else 1)) * (TILE if _tiled(spec) else 1)
    share = max(0, rows - 2 * border) / rows
    return share if share >= LEAST_SHARE and spec.macs * rows * share >= LEAST_WORK * spec.out_height else 0.0


def _tiled(spec: ConvSpec) -> bool:
    return spec.kernel == (3, 3) and spec.stride == (1, 1)


def interior_first(
    graph: LayerGraph, layer: Conv, work: Work, here: Callable[[int, Region], bool]
) -> tuple[Work, tuple[Work, ...]] | None:
    """(the interior, the borders), or None where all or too little of the work can be done with what is here.

    ``here(tensor, region)`` says whether the rank holds a region.
    """
    rows = work.output.rows
    if all(here(tensor, region) for tensor, region in layer.needs(graph.tensors, work)):
        return None

    def ready(part: Span) -> bool:
        piece = replace(work, output=work.output.with_rows(part))
        return possible(piece) and all(here(tensor, region) for tensor, region in layer.needs(graph.tensors, piece))

    def possible(piece: Work) -> bool:
        """Not where the piece alone would read nothing but padding."""
        try:
            layer.needs(graph.tensors, piece)
        except GeometryError:
            return False
        return True

    able = [row for row in range(rows.start, rows.stop) if ready(Span(row, row + 1))]
    if not able or len(able) != able[-1] - able[0] + 1:
        return None
    start, stop = able[0], able[-1] + 1
    if _tiled(layer.spec):
        start = min(stop, rows.start + -(-(start - rows.start) // TILE) * TILE)
        stop = start + (stop - start) // TILE * TILE
    interior = Span(start, stop)
    macs = layer.spec.macs * len(interior) // layer.spec.out_height
    if len(interior) < LEAST_SHARE * len(rows) or macs < LEAST_WORK or not ready(interior):
        return None
    borders = tuple(
        replace(work, output=work.output.with_rows(part))
        for part in (Span(rows.start, start), Span(stop, rows.stop))
        if part
    )
    if not all(map(possible, borders)):
        return None
    return replace(work, output=work.output.with_rows(interior)), borders
