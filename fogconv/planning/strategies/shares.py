"""Shares: which rank gets which channels, rows and columns of a graph's tensors, on one cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, cached_property

from fogconv.hardware.topology import Topology
from fogconv.ir.geometry import Span
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv, Host, Layer
from fogconv.ir.layout import MASTER, Layout, on, replicate, shard_channels, shard_rows
from fogconv.ir.shard import level, split, split_channels
from fogconv.planning.limits.tiling import Tiling
from fogconv.planning.strategies.cells import Cells, aligned_spans, place_of, spans
from fogconv.planning.strategies.fusing.segments import fused_rows


class Shares:
    """``members`` are the ranks that get work.

    ``sharers``: conv → how few ranks may share its weights (`fogconv.planning.strategies.dealing.sharers`), in a scheme that
    deals the weights out; None where every rank may have them all. ``drifting``: the cuts may move after every conv,
    not only between two that need their neighbours' rows. ``fused``: the most stages without an exchange of rows; 0: any
    rows may be exchanged before any layer. ``offloading``: every rank may get whole layers. ``tiling``: how maps are cut
    into tiles.
    """

    def __init__(
        self,
        graph: LayerGraph,
        topology: Topology,
        members: Sequence[int] | None,
        *,
        sharers: Mapping[str, int] | None,
        drifting: bool,
        fused: int = 0,
        offloading: bool,
        tiling: Tiling | None = None,
    ) -> None:
        self.graph = graph
        self.ranks = len(topology)
        self.members = list(topology.ranks) if members is None else sorted(members)
        self.dealt = sharers is not None
        self._sharers = sharers or {}
        self.drifting = drifting
        self.fused = fused
        rates = level([topology.rate(rank) for rank in topology.ranks])
        self.helpers = self._helpers(topology, rates, offloading)
        """The ranks that may compute whole layers instead of the master."""
        self.places = _places(self.members, rates)
        """The members from a map's top rows to its bottom ones."""
        self._weights = [rate if rank in self.members else 0.0 for rank, rate in enumerate(rates)]
        self._haloed = {layer.source for layer in graph.layers if isinstance(layer, Conv) and halo(layer)}
        self._producer = {layer.target: layer for layer in graph.layers if not isinstance(layer, Host)}
        self.channel_spans = cache(self._channel_spans)
        self.tiling = tiling
        self.cells = Cells(graph, {rank: self._weights[rank] for rank in self.places})

    def _helpers(self, topology: Topology, rates: Sequence[float], offloading: bool) -> tuple[int, ...]:
        workers = [rank for rank in self.members if rank]
        if offloading:
            return tuple(workers)
        faster = [rank for rank in workers if rates[rank] > rates[0]]
        link_s = {rank: max(topology.link(0, rank).s_per_byte, topology.link(rank, 0).s_per_byte) for rank in faster}
        return tuple(sorted(faster, key=lambda rank: (-rates[rank], link_s[rank]))[:1])

    def layout(self, tensor: int, kind: str) -> Layout:
        """M (on the master), R (replicated), C (channels) or H (rows) of a tensor."""
        whole = self.graph.tensors[tensor].region
        match kind:
            case "M":
                return on(0, whole, self.ranks)
            case "R":
                return replicate(whole, self.ranks, self.members)
            case "C":
                return shard_channels(whole, self.channel_spans(tensor))
            case _:
                return shard_rows(whole, self.row_spans(len(whole.rows)))

    def _channel_spans(self, tensor: int) -> tuple[Span, ...]:
        """The division of a tensor's channels: along whole groups where a grouped conv computes it."""
        layer = self._producer.get(tensor)
        if isinstance(layer, Conv) and layer.spec.groups > 1 and not layer.spec.depthwise:
            per_group = layer.spec.out_channels // layer.spec.groups
            spans = split(layer.spec.groups, self._weights)
            return tuple(Span(span.start * per_group, span.stop * per_group) for span in spans)
        return split_channels(self.graph.tensors[tensor].channels, self._weights)

    def may_share(self, conv: Conv, ranks: int) -> bool:
        """Whether so few ranks may have the weights of a conv between them."""
        return ranks >= self._sharers.get(conv.name, 1)

    def may_sum(self, layer: Layer) -> bool:
        """Whether a layer can be summed from parts over its input's rows and columns: means of bytes are rounded once."""
        return layer.by_sums and not self.graph.tensors[layer.reads[0]].precision.quantized

    def rate(self, ranks: Sequence[int]) -> float:
        """Of several ranks together, in proportion to others'."""
        return sum(self._weights[rank] for rank in ranks)

    def row_spans(self, height: int) -> tuple[Span, ...]:
        """The division of rows, from the first place to the last."""
        return self._placed(spans(height, *self._order))

    def aligned_spans(self, height: int) -> tuple[Span, ...]:
        """The same by cuts that stay cuts where the map is halved."""
        return self._placed(aligned_spans(height, *self._order))

    @property
    def _order(self) -> tuple[Sequence[float], int | None]:
        """The weight of each place, and the master's place."""
        return [self._weights[rank] for rank in self.places], place_of(MASTER, self.places)

    def _placed(self, found: Sequence[Span]) -> tuple[Span, ...]:
        """By ranks what is in the order of places."""
        by_rank = dict(zip(self.places, found, strict=True))
        return tuple(by_rank.get(rank, Span(0, 0)) for rank in range(self.ranks))

    @cached_property
    def fused_spans(self) -> Mapping[str, tuple[Span, ...]]:
        """The rows of each layer that each rank computes, where several layers follow each other without an exchange."""
        return fused_rows(self.graph, self.aligned_spans, self.fused)

    def drift(self, layer: Layer) -> int:
        """The number of rows by which the cuts may move down after this layer; 0 for none."""
        if self.drifting and isinstance(layer, Conv) and layer.spec.stride[0] == 1:
            return max(1, halo(layer))
        return halo(layer) if layer.target in self._haloed else 0  # type: ignore[union-attr]


def _places(ranks: Sequence[int], rates: Sequence[float]) -> tuple[int, ...]:
    """The ranks in their order where all are as fast; else the slowest outermost, where they have one neighbour, and the
    fastest in the middle: a message takes a slow rank's processor for longer."""
    if len({rates[rank] for rank in ranks}) == 1:
        return tuple(ranks)
    by_rate = sorted(ranks, key=lambda rank: rates[rank])
    return (*by_rate[::2], *reversed(by_rate[1::2]))


def halo(layer: Layer) -> int:
    """Rows of its input beyond its own that a conv of stride 1 reads on either side."""
    if not isinstance(layer, Conv) or layer.spec.stride[0] != 1:
        return 0
    return layer.spec.dilation[0] * (layer.spec.kernel[0] - 1) // 2
