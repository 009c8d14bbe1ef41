"""Options: the ways in which a layer can be computed on a cluster, as layouts in and layouts out.

mode         needs                  gives
local        On(0)                  On(0)
copies       Replicate              Replicate        (every rank does it all)
output       Replicate              Shard(C)
input        Shard(C)               Partial → On(0), Shard(C), Shard(H) or Replicate
groups       Shard(C)               Shard(C)         (grouped and depthwise convs, along whole groups)
channels     Shard(C)               Shard(C)         (whatever works channel by channel)
rows         Shard(H) with halo     Shard(H)
sums         Shard(H)               Partial → …      (global pooling over rows)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from fogconv.errors import GeometryError
from fogconv.ir.geometry import Region, Span
from fogconv.ir.graph import Conv, Host, Layer, LayerGraph
from fogconv.ir.layout import Layout, on, replicate, shard_channels, shard_rows, transfers
from fogconv.ir.plan import at_home
from fogconv.ir.shard import Work, level, split, split_channels
from fogconv.lowering.overlap import hidden_share
from fogconv.planning.cost import Prices, Traffic
from fogconv.planning.layout_table import LayoutBook

Scheme = Literal["auto", "depth", "rows", "local"]

MOST_OVERLAP = 3
"""Rows: what three 3×3 convs in a row reach beyond a rank's own."""

COPIED_SHARE = 0.01
"""Of the model's conv weights: a layer with more is not copied in the depth scheme, which deals the weights out."""

UNITS_PER_RANK = 4
"""Aligned cuts fall on multiples of 1/4 of a rank's share or less, so that no rank has more than a quarter too much."""


@dataclass(frozen=True, slots=True)
class Option:
    """One way to do one layer. ``needed`` are (tensor, layout number); ``made`` is the layout number of the result.

    ``target`` is the layout in which a partial result is summed. ``edge_s``: the slowest rank's work. ``sum_s``: bringing
    the summands together and the epilogue. ``stored`` are the weight elements on each rank. ``hidden_s`` of the work can be
    done while the inputs are on their way.
    """

    mode: str
    work: tuple[Work, ...]
    needed: tuple[tuple[int, int], ...]
    made: int
    target: Layout | None
    edge_s: float
    sum_s: float
    sum_traffic: Traffic | None
    stored: tuple[int, ...]
    hidden_s: float = 0.0


class Options:
    """All options of all layers of a graph, for one scheme on one cluster; ``members`` are the ranks that get work (all).

    ``drifting``: rows may be cut elsewhere behind every conv, and not only between two that need their neighbours' rows.
    """

    def __init__(
        self,
        graph: LayerGraph,
        prices: Prices,
        book: LayoutBook,
        scheme: Scheme,
        members: Sequence[int] | None = None,
        *,
        drifting: bool = False,
    ) -> None:
        self._graph = graph
        self._prices = prices
        self._book = book
        self._scheme = scheme
        self._ranks = len(prices.topology)
        self._crew = list(prices.topology.ranks) if members is None else sorted(members)
        rates = level([prices.topology.rate(rank) for rank in prices.topology.ranks])
        self._weights = [rate if rank in self._crew else 0.0 for rank, rate in enumerate(rates)]
        self._drifting = drifting
        self._conv_weights = sum(conv.spec.weight_elements for conv in graph.convs if not conv.linear)
        self._haloed = {layer.source for layer in graph.layers if isinstance(layer, Conv) and _halo(layer)}
        self._producer = {layer.target: layer for layer in graph.layers if not isinstance(layer, Host)}
        self.channel_spans = cache(self._channel_spans)

    def of(self, layer: Layer) -> tuple[Option, ...]:
        """At least the local one. Options that this geometry does not allow are left out."""
        if isinstance(layer, Host):
            return (self._at_home(layer),)
        found = [self._at_home(layer)]
        if len(self._crew) > 1 and self._scheme != "local":
            for mode, works, targets in self._ways(layer):
                for target in targets:
                    option = self._option(layer, mode, works, target)
                    if option is not None:
                        found.append(option)
        return tuple(found)

    def whole_on_master(self, tensor: int) -> int:
        return self._book.number(on(0, self._graph.tensors[tensor].region, self._ranks))

    def layout(self, tensor: int, kind: str) -> Layout:
        """M, R, C or H of a tensor."""
        whole = self._graph.tensors[tensor].region
        match kind:
            case "M":
                return on(0, whole, self._ranks)
            case "R":
                return replicate(whole, self._ranks, self._crew)
            case "C":
                return shard_channels(whole, self.channel_spans(tensor))
            case _:
                return shard_rows(whole, self._row_spans(len(whole.rows)))

    def _channel_spans(self, tensor: int) -> tuple[Span, ...]:
        """How a tensor's channels are dealt out: along whole groups where a grouped conv makes it."""
        layer = self._producer.get(tensor)
        if isinstance(layer, Conv) and layer.spec.groups > 1 and not layer.spec.depthwise:
            per_group = layer.spec.out_channels // layer.spec.groups
            spans = split(layer.spec.groups, self._weights)
            return tuple(Span(span.start * per_group, span.stop * per_group) for span in spans)
        return split_channels(self._graph.tensors[tensor].channels, self._weights)

    def _ways(self, layer: Layer) -> Iterator[tuple[str, list[Work], Sequence[str]]]:
        """(mode, work, kinds of layout for the result)."""
        assert not isinstance(layer, Host)
        whole = self._graph.tensors[layer.target].region
        by_channels = [
            Work(rank, whole.with_channels(span)) for rank, span in enumerate(self.channel_spans(layer.target)) if span
        ]
        single_pixel = whole.shape[1:] == (1, 1)
        rows_allowed = self._scheme != "depth" and not single_pixel
        # The rows scheme still needs a way through the head, where maps are one pixel.
        channels_allowed = self._scheme != "rows" or single_pixel
        sums = ["M", "R", "C"] if self._scheme == "depth" or single_pixel else ["M", "R", "C", "H"]
        if channels_allowed and not (self._scheme == "depth" and self._weighty(layer)):
            yield "copies", [Work(rank, whole) for rank in self._crew], [""]
        if isinstance(layer, Conv):
            if channels_allowed and layer.spec.groups == 1:
                yield "output", by_channels, [""]
                yield "input", self._input_split(layer, whole), sums
            elif channels_allowed:
                yield "groups", by_channels, [""]
        elif channels_allowed and layer.by_channels:
            yield "channels", by_channels, [""]
        if rows_allowed:
            plain, aligned = self._row_spans(len(whole.rows)), self._aligned_spans(len(whole.rows))
            for spans in dict.fromkeys((plain, aligned)):
                fewest = min(len(span) for span in spans if span)
                for overlap in range(1 + min(MOST_OVERLAP, fewest // 2)):
                    yield "rows", _overlapping(whole, spans, overlap), [""]
                drift = self._drift(layer)
                if 0 < drift < fewest:
                    yield "rows", _overlapping(whole, _drifted(spans, drift), 0), [""]
        if layer.by_sums and self._scheme != "depth":
            height = self._graph.tensors[layer.reads[0]].height
            spans = self._row_spans(height)
            yield "sums", [Work(r, whole, rows=span) for r, span in enumerate(spans) if span], ["M", "R", "C"]

    def _drift(self, layer: Layer) -> int:
        """By how many rows the cuts may move down behind this layer; 0 for not at all."""
        if self._drifting and isinstance(layer, Conv) and layer.spec.stride[0] == 1:
            return max(1, _halo(layer))
        return _halo(layer) if layer.target in self._haloed else 0  # type: ignore[union-attr]

    def _weighty(self, layer: Layer) -> bool:
        """Whether copies of a layer's weights would undo what splitting the others saves."""
        if not isinstance(layer, Conv) or layer.linear:
            return False
        return layer.spec.weight_elements > COPIED_SHARE * self._conv_weights

    def _row_spans(self, height: int) -> tuple[Span, ...]:
        """What is left over goes to the last ranks: the first has the start and the end of an inference to see to. Where one
        row more is twice the work, it goes to the outermost, which have one neighbour to talk to and not two."""
        order = list(reversed(range(self._ranks)))
        if height < 2 * len(self._crew):
            ends = {rank: min(i, len(self._crew) - 1 - i) for i, rank in enumerate(self._crew)}
            order.sort(key=lambda rank: ends.get(rank, self._ranks))
        return split(height, self._weights, order=order)

    def _aligned_spans(self, height: int) -> tuple[Span, ...]:
        """Cut where the map still has a cut after it was halved a few times: a stride of 2 then moves no row."""
        units = height
        while units % 2 == 0 and units // 2 >= UNITS_PER_RANK * len(self._crew):
            units //= 2
        size = height // units
        return tuple(Span(span.start * size, span.stop * size) for span in self._row_spans(units))

    def _input_split(self, layer: Conv, whole: Region) -> list[Work]:
        return [Work(rank, whole, depth=span) for rank, span in enumerate(self.channel_spans(layer.source)) if span]

    def _at_home(self, layer: Layer) -> Option:
        option = self._option(layer, "local", list(at_home(self._graph, layer).work), "")
        assert option is not None
        return replace(option, mode="host" if isinstance(layer, Host) else "local")

    def _option(self, layer: Layer, mode: str, works: list[Work], kind: str) -> Option | None:
        needed: dict[int, list[tuple[Region, ...]]] = {}
        stored = [0] * self._ranks
        try:
            for work in works:
                for tensor, region in layer.needs(self._graph.tensors, work):
                    needed.setdefault(tensor, [()] * self._ranks)[work.rank] = (region,)
                if isinstance(layer, Conv):
                    stored[work.rank] += weight_elements(layer, work)
            edge_s = self._prices.slowest_s(layer, works)
        except GeometryError:  # a part would read nothing but padding, or cut a group
            return None
        if isinstance(layer, Host):
            return Option(mode, tuple(works), self._numbers(needed), -1, None, edge_s, 0.0, None, tuple(stored))
        partial = any(layer.is_partial(work) for work in works)
        if not partial:
            # A split by input channels over so few that one rank has them all is no split.
            if kind:
                return None
            made = [()] * self._ranks if not works else _made(works, self._ranks)
            number = self._book.number(Layout(tuple(made)))
            hidden_s = 0.0
            if isinstance(layer, Conv) and mode == "rows":
                hidden_s = edge_s * hidden_share(layer.spec, min(len(work.output.rows) for work in works))
            return Option(
                mode, tuple(works), self._numbers(needed), number, None, edge_s, 0.0, None, tuple(stored), hidden_s
            )
        target = self.layout(layer.target, kind)
        held = Layout(_made(works, self._ranks), partial=True)
        traffic = self._prices.traffic(transfers(held, target))
        finish_s = max(
            self._prices.finish_s(rank, box, len(works)) for rank, boxes in enumerate(target.regions) for box in boxes
        )
        if isinstance(layer, Conv) and layer.residual is not None:
            needed[layer.residual] = list(target.regions)
        return Option(
            mode,
            tuple(works),
            self._numbers(needed),
            self._book.number(target),
            target,
            edge_s,
            traffic.seconds + finish_s,
            traffic,
            tuple(stored),
        )

    def _numbers(self, needed: dict[int, list[tuple[Region, ...]]]) -> tuple[tuple[int, int], ...]:
        return tuple((tensor, self._book.number(Layout(tuple(regions)))) for tensor, regions in needed.items())


def _halo(layer: Layer) -> int:
    """Rows of its input beyond its own that a conv of stride 1 reads on either side."""
    if not isinstance(layer, Conv) or layer.spec.stride[0] != 1:
        return 0
    return layer.spec.dilation[0] * (layer.spec.kernel[0] - 1) // 2


def _drifted(spans: Sequence[Span], rows: int) -> tuple[Span, ...]:
    """All cuts moved down by so many rows.

    Where a conv's input is cut above and its output there, all that a rank lacks comes from the one neighbour below, in one
    message and not in one from either; the next such conv may move the cuts back, with what comes from above. The 1×1
    between them, and the sum with what was cut above, are done where the cuts are.
    """
    first, last = (next(i for i in order if spans[i]) for order in (range(len(spans)), reversed(range(len(spans)))))
    return tuple(
        span and Span(span.start + (rows if i != first else 0), span.stop + (rows if i != last else 0))
        for i, span in enumerate(spans)
    )


def _overlapping(whole: Region, spans: Sequence[Span], overlap: int) -> list[Work]:
    """Each rank's rows, and ``overlap`` of its neighbours' on either side."""
    return [
        Work(rank, whole.with_rows(Span(span.start - overlap, span.stop + overlap) & whole.rows))
        for rank, span in enumerate(spans)
        if span
    ]


def _made(works: Sequence[Work], ranks: int) -> tuple[tuple[Region, ...], ...]:
    made: list[tuple[Region, ...]] = [()] * ranks
    for work in works:
        made[work.rank] = (*made[work.rank], work.output)
    return tuple(made)


def weight_elements(layer: Conv, work: Work) -> int:
    """How much of a conv's weight this work needs."""
    c = layer.spec.in_channels // layer.spec.groups if work.depth is None else len(work.depth)
    return len(work.output.channels) * c * layer.spec.kernel[0] * layer.spec.kernel[1]


def split_name(option: Option) -> str | None:
    """The cut for people: "input:4", "output:4", "groups:4", "rows:5"; None where one rank does it."""
    parts = len({work.rank for work in option.work})
    if parts < 2 and option.mode in ("local", "host", "relabel"):
        return None
    return f"{option.mode}:{parts}"
