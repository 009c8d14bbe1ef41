"""Interior first: the rows that a rank can compute before its neighbours' rows arrive.

With the interior first and the border last, the border rows are sent while the next interior is computed: an exchange
delays a rank only if it takes longer than that.

The same along the channels was tried: a conv summed its input's channels in portions, its own first and the others as
they arrived. It did not pay, because each portion passes over the result once more: VGG-16 on five nodes of 0.1 core took
1.02 s with it and 0.96 s without (depth).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fogconv.errors import GeometryError
from fogconv.ir.geometry import ConvSpec, Region, Span
from fogconv.ir.graph import Conv, LayerGraph
from fogconv.ir.shard import Work

TILE = 4
"""Rows of a Winograd tile: cuts are at its multiples, so that no tile is computed twice."""

LEAST_SHARE = 0.4
"""The least rows of an interior: a smaller one hides too little to pay for two more kernel calls."""

LEAST_WORK = 2_000_000
"""The least MACs of an interior."""


def hidden_share(spec: ConvSpec, rows: int) -> float:
    """The share of a shard of so many output rows that can be computed before the neighbours' rows arrive."""
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
    """(the interior, the borders), or None where all or too little of the work can be done with the regions held.

    ``here(tensor, region)`` returns whether the rank holds a region.
    """
    rows = work.output.rows
    if all(here(tensor, region) for tensor, region in layer.needs(graph.tensors, work)):
        return None

    def ready(part: Span) -> bool:
        piece = replace(work, output=work.output.with_rows(part))
        return possible(piece) and all(here(tensor, region) for tensor, region in layer.needs(graph.tensors, piece))

    def possible(piece: Work) -> bool:
        """Whether the piece is a valid conv: False where it would read only padding."""
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
