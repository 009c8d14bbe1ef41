"""Shards: one rank's part of a layer, a conv's shapes for that part, and the division of channels among ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from fogconv.errors import GeometryError
from fogconv.ir.geometry import BLOCK, ConvSpec, PoolSpec, Region, Span

SHARDS_KEPT = 4096
"""A search needs each of a few hundred results about twenty times."""


@dataclass(frozen=True, slots=True)
class Work:
    """A rank's part of one layer: the output region, and what a partial result sums.

    ``depth``: the input channels of a conv that is split by them. ``rows``, ``columns``: those of the input of a mean over
    rows and columns that is split by them; None for all.

    ``raw``: the conv's residual and activation are applied where the result is sent (they would have to be sent first).
    """

    rank: int
    output: Region
    depth: Span | None = None
    rows: Span | None = None
    raw: bool = False
    columns: Span | None = None

    @property
    def in_parts(self) -> bool:
        """Whether it sums a part of a map."""
        return self.rows is not None or self.columns is not None

    def summed(self, whole: Region) -> Region:
        """The part of a map that it sums."""
        rows, columns = self.rows, self.columns
        return Region(whole.channels, whole.rows if rows is None else rows, whole.columns if columns is None else columns)


def split(total: int, weights: Sequence[float], grain: int = 1, *, order: Sequence[int] = ()) -> tuple[Span, ...]:
    """Cut 0 … total-1 into consecutive spans proportional to the weights, in multiples of ``grain`` (the last may be short).

    By largest remainder, so that no span is more than one grain from its exact share; ties go to the first, or the first
    in ``order``. More weights than grains leave spans empty; a weight of 0 does too. Raises GeometryError for negative
    weights or when all are zero.
    """
    if min(weights, default=0.0) < 0 or sum(weights) <= 0:
        raise GeometryError(f"can't split {total} by the weights {list(weights)}: they must be positive")
    grains = -(-total // grain)
    due = [grains * weight / sum(weights) for weight in weights]
    counts = [int(part) for part in due]
    by_remainder = sorted(order or range(len(due)), key=lambda i: counts[i] - due[i])
    for i in by_remainder[: grains - sum(counts)]:
        counts[i] += 1
    spans, start = [], 0
    for count in counts:
        stop = min(total, start + count * grain)
        spans.append(Span(start, stop))
        start = stop
    return tuple(spans)


def level(rates: Sequence[float], tolerance: float = 0.25) -> tuple[float, ...]:
    """The rates, with those that differ by less than the tolerance made equal (their mean).

    Rates of equal devices measured on a busy machine differ by 20 %; shares that follow such noise make ranks wait.
    """
    levelled = list(rates)
    order = sorted(range(len(rates)), key=lambda i: rates[i])
    group: list[int] = []
    for i in [*order, None]:
        if i is not None and (not group or rates[i] <= rates[group[0]] * (1 + tolerance)):
            group.append(i)
            continue
        for member in group:
            levelled[member] = sum(rates[j] for j in group) / len(group)
        group = [] if i is None else [i]
    return tuple(levelled)


def split_channels(channels: int, weights: Sequence[float]) -> tuple[Span, ...]:
    """Channel spans in whole blocks of 16 where there are at least two blocks for each rank, else single channels.

    Whole blocks are sent without shuffling lanes; with fewer blocks the uneven shares would cost more.
    """
    busy = sum(1 for weight in weights if weight > 0)
    return split(channels, weights, BLOCK if channels >= 2 * BLOCK * busy else 1)


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank's part of a conv.

    ``input`` is the region that it reads of the source tensor, clipped to the image; ``output`` the region that it writes
    of the target; ``filters`` and ``depth`` cut the weight (f, c/g, K_h, K_w) to ``weight[filters, depth]``; ``partial``
    when ``depth`` is not the whole, so that shards of the same output have to be summed. ``spec`` is the conv at this
    size.
    """

    rank: int
    input: Region
    output: Region
    filters: Span
    depth: Span
    partial: bool
    spec: ConvSpec

    @property
    def bears_bias(self) -> bool:
        """Of the shards that are summed into one output, the one with the first input channels adds the bias."""
        return self.depth.start == 0


@lru_cache(maxsize=SHARDS_KEPT)
def conv_shard(rank: int, spec: ConvSpec, output: Region, depth: Span | None = None) -> Shard:
    """The shard of ``spec`` that computes ``output`` from the input channels ``depth`` (of each group; all by default).

    Raises GeometryError when output channels cut a group in two (unless they lie inside one), when a grouped conv is
    to be split in depth, or when a part reads only padding.
    """
    c_per_group, f_per_group = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    whole_depth = Span(0, c_per_group)
    depth = whole_depth if depth is None else depth
    if not output or not depth:
        raise GeometryError(f"rank {rank}: an empty shard {output} of depth {depth}")
    if spec.groups == 1:
        channels, groups = depth, 1
    else:
        if depth != whole_depth:
            raise GeometryError(f"a conv of {spec.groups} groups can't be split by input channels; split whole groups")
        first, last = output.channels.start // f_per_group, (output.channels.stop - 1) // f_per_group
        groups = last - first + 1
        if groups > 1 and (output.channels.start % f_per_group or output.channels.stop % f_per_group):
            raise GeometryError(f"output channels {output.channels} cut a group of {f_per_group} in two")
        channels = Span(first * c_per_group, (last + 1) * c_per_group)
    rows, top, bottom = _reach(output.rows, spec.height, spec, axis=0)
    columns, left, right = _reach(output.columns, spec.width, spec, axis=1)
    local = replace(
        spec,
        in_channels=len(channels),
        out_channels=len(output.channels),
        height=len(rows),
        width=len(columns),
        padding=(top, bottom, left, right),
        groups=groups,
    )
    return Shard(rank, Region(channels, rows, columns), output, output.channels, depth, depth != whole_depth, local)


def _reach(out: Span, size: int, spec: ConvSpec | PoolSpec, axis: int) -> tuple[Span, int, int]:
    """The input rows (axis 0) or columns (axis 1) that output ``out`` reads, and how far it reaches beyond the image."""
    before = spec.padding[2 * axis]
    start = out.start * spec.stride[axis] - before
    stop = (out.stop - 1) * spec.stride[axis] - before + spec.dilation[axis] * (spec.kernel[axis] - 1) + 1
    inside = Span(start, stop) & Span(0, size)
    if not inside:
        if out == Span(0, (spec.out_height, spec.out_width)[axis]):
            return Span(0, size), before, spec.padding[2 * axis + 1]
        raise GeometryError(f"output {out.start}:{out.stop} along axis {axis} reads only padding")
    return inside, inside.start - start, stop - inside.stop


def pool_input(spec: PoolSpec, output: Region) -> Region:
    """The region of its input, clipped to the image, that a pooling reads for ``output``."""
    rows, _, _ = _reach(output.rows, spec.height, spec, axis=0)
    columns, _, _ = _reach(output.columns, spec.width, spec, axis=1)
    return Region(output.channels, rows, columns)


def conv_grid(
    spec: ConvSpec, ranks: Sequence[int], groups_in: int, weights: Sequence[float] | None = None
) -> tuple[Shard, ...]:
    """``len(ranks)`` shards as a grid of ``groups_in`` (p) input groups × q output groups; p·q must be len(ranks).

    p = 1 is the split by output channels, q = 1 the one by input channels. Shares follow the weights (seconds
    for equal work are their inverse): columns of the grid by their sums, and inside a column by each rank's own.
    A grouped conv is split along whole groups, whatever p is. Ranks left without a channel get no shard.
    """
    weights = [1.0] * len(ranks) if weights is None else list(weights)
    whole = Region.whole(spec.out_channels, spec.out_height, spec.out_width)
    if spec.groups > 1:
        per_group = spec.out_channels // spec.groups
        # Depthwise groups are single channels: cut them in blocks of 16 like any other channels.
        spans = split_channels(spec.groups, weights) if per_group == 1 else split(spec.groups, weights)
        return tuple(
            conv_shard(rank, spec, whole.with_channels(Span(s.start * per_group, s.stop * per_group)))
            for rank, s in zip(ranks, spans, strict=True)
            if s
        )
    if len(ranks) % groups_in:
        raise GeometryError(f"{len(ranks)} ranks don't make a grid with {groups_in} input groups")
    q = len(ranks) // groups_in
    columns = [range(j * groups_in, (j + 1) * groups_in) for j in range(q)]
    filters = split_channels(spec.out_channels, [sum(weights[i] for i in column) for column in columns])
    shards = []
    for column, span in zip(columns, filters, strict=True):
        depths = split_channels(spec.in_channels, [weights[i] for i in column])
        shards += [
            conv_shard(ranks[i], spec, whole.with_channels(span), depth)
            for i, depth in zip(column, depths, strict=True)
            if span and depth
        ]
    return tuple(shards)
