"""Interior first: the rows and columns that a rank can compute before its neighbours' arrive.

With the interior first and the borders last, the borders are sent while the next interior is computed: an exchange
delays a rank only if it takes longer than that.

The same along the channels was tried: a conv summed its input's channels in portions, its own first and the others as
they arrived. It did not pay, because each portion passes over the result once more: VGG-16 on five nodes of 0.1 core took
1.02 s with it and 0.96 s without (depth).

Computing first what others wait for, and sending each part as soon as it is done, was simulated (depth, five nodes of
0.1 core, 1 Gbit/s). Partial sums are 1.6 % of VGG-16's bytes and 6.5 % of ResNet-50's: if all arrived at once, an inference
would take 1.4 and 2.2 % less. The channels that every rank needs are most of the bytes. Computed and sent in two halves they
made these inferences 5 and 11 % longer, because each message more costs both ends more than its half of the transfer hides;
in halves of 100 KB or more, neither shorter nor longer. On boards like a Raspberry Pi 4 and 5 VGG-16 would take 4 to 6 and
3 to 4 % less, ResNet-50 as long as before; but by rows VGG-16 takes a fifth less there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fogconv.errors import GeometryError
from fogconv.ir.geometry import ConvSpec, Region, Span
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv
from fogconv.ir.shard import Work

TILE = 4
"""Rows and columns of a Winograd tile: cuts are at its multiples, so that no tile is computed twice."""

LEAST_SHARE = 0.4
"""The least share of an interior: a smaller one hides too little to pay for two to four more kernel calls."""

LEAST_WORK = 2_000_000
"""The least MACs of an interior."""


def hidden_share(spec: ConvSpec, output: Region) -> float:
    """The share of a shard with this output that can be computed before the neighbours' rows and columns arrive."""
    share = 1.0
    for axis, (span, size) in enumerate(zip((output.rows, output.columns), (spec.out_height, spec.out_width), strict=True)):
        halo = spec.dilation[axis] * (spec.kernel[axis] - 1) // 2
        if halo and len(span) < size:
            border = -(-halo // (TILE if _tiled(spec) else 1)) * (TILE if _tiled(spec) else 1)
            share *= max(0, len(span) - 2 * border) / len(span)
    if share == 1.0:
        return 0.0
    macs = spec.macs * len(output.rows) * len(output.columns) * share
    return share if share >= LEAST_SHARE and macs >= LEAST_WORK * spec.out_height * spec.out_width else 0.0


def _tiled(spec: ConvSpec) -> bool:
    return spec.kernel == (3, 3) and spec.stride == (1, 1)


def interior_first(
    graph: LayerGraph, layer: Conv, work: Work, here: Callable[[int, Region], bool]
) -> tuple[Work, tuple[Work, ...]] | None:
    """(the interior, the borders), or None where all or too little of the work can be done with the regions held.

    ``here(tensor, region)`` returns whether the rank holds a region.
    """
    whole = work.output
    if all(here(tensor, region) for tensor, region in layer.needs(graph.tensors, work)):
        return None

    def ready(part: Region) -> bool:
        piece = replace(work, output=part)
        return possible(piece) and all(here(tensor, region) for tensor, region in layer.needs(graph.tensors, piece))

    def possible(piece: Work) -> bool:
        """Whether the piece is a valid conv: False where it would read only padding."""
        try:
            layer.needs(graph.tensors, piece)
        except GeometryError:
            return False
        return True

    tile = TILE if _tiled(layer.spec) else 1
    # Where a tile's whole rows wait for its neighbours beside it, a row is tried in its middle.
    middle = (whole.columns.start + whole.columns.stop) // 2
    rows = _inside(whole.rows, lambda span: ready(whole.with_rows(span)), tile) or _inside(
        whole.rows, lambda span: ready(Region(whole.channels, span, Span(middle, middle + 1))), tile
    )
    columns = rows and _inside(whole.columns, lambda span: ready(Region(whole.channels, rows, span)), tile)
    if not rows or not columns:
        return None
    interior = Region(whole.channels, rows, columns)
    pixels = len(rows) * len(columns)
    macs = layer.spec.macs * pixels // (layer.spec.out_height * layer.spec.out_width)
    if pixels < LEAST_SHARE * len(whole.rows) * len(whole.columns) or macs < LEAST_WORK or not ready(interior):
        return None
    borders = tuple(replace(work, output=part) for part in whole.minus(interior))
    if not all(map(possible, borders)):
        return None
    return replace(work, output=interior), borders


def _inside(whole: Span, ready: Callable[[Span], bool], tile: int) -> Span | None:
    """The rows, or columns, that are ready; cut to whole tiles, which begin where the shard does. None where there are none,
    or where they are not in one piece."""
    if ready(whole):
        return whole
    able = [at for at in range(whole.start, whole.stop) if ready(Span(at, at + 1))]
    if not able or len(able) != able[-1] - able[0] + 1:
        return None
    start, stop = able[0], able[-1] + 1
    start = min(stop, whole.start + -(-(start - whole.start) // tile) * tile)
    stop = start + (stop - start) // tile * tile
    return Span(start, stop) if stop > start else None
