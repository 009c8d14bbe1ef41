"""Cells: the part of a map that each rank has, and as much of its neighbours' as the next layers read.

A rank may compute beyond its cell what its next layers read beyond theirs: then these need no exchange between them. Such
**fused** layers compute the values around the cuts several times. What a cell has to be is found backwards from the last of
them, as in DeepThings (Zhao, Barijough and Gerstlauer, IEEE TCAD 2018), for every type of layer by its own ``needs``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from fogconv.ir.geometry import Region, Span, bounding
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Host, Layer
from fogconv.ir.layout import MASTER
from fogconv.ir.shard import Work, split
from fogconv.planning.limits.tiling import Tiling

UNITS_PER_RANK = 4
"""Aligned cuts are at multiples of at most 1/4 of a rank's share, so that no rank has more than a quarter too much."""

Parts = Mapping[int, Region]
"""Rank → its part of a map, of those that have any."""


def spans(size: int, weights: Sequence[float], home: int | None) -> tuple[Span, ...]:
    """The division of rows, or of columns, among places of these weights. What remains goes to the last places, and last to
    the master's, ``home``, because it has to start and end each inference. Where one more row doubles the work, it goes to
    the outermost places, which have one neighbour instead of two."""
    last = len(weights) - 1
    order = sorted(range(last, -1, -1), key=lambda place: place == home)
    if size < 2 * len(weights):
        order.sort(key=lambda place: min(place, last - place))
    return split(size, weights, order=order)


def aligned_spans(size: int, weights: Sequence[float], home: int | None) -> tuple[Span, ...]:
    """Cuts that stay cuts after the map is halved a few times, so that a stride of 2 moves no row."""
    units = size
    while units % 2 == 0 and units // 2 >= UNITS_PER_RANK * len(weights):
        units //= 2
    unit = size // units
    return tuple(Span(span.start * unit, span.stop * unit) for span in spans(units, weights, home))


def place_of(rank: int, ranks: Sequence[int]) -> int | None:
    """The place of a rank in an order of ranks; None where it has none."""
    return ranks.index(rank) if rank in ranks else None


class Cells:
    """The cells of a graph's maps. ``weights``: rank → its share of the work, in the order of their places."""

    def __init__(self, graph: LayerGraph, weights: Mapping[int, float]) -> None:
        self._graph = graph
        self._weights = weights
        self._readers: dict[int, list[Layer]] = defaultdict(list)
        for layer in graph.layers:
            for tensor in dict.fromkeys(layer.reads):
                self._readers[tensor].append(layer)
        self._last_first = [tensor for layer in reversed(graph.layers) for tensor in layer.writes] + [*graph.given]
        self.bands = cache(self._bands)
        self.of = cache(self._of)
        self._of_all = cache(self._fused)

    def fused(self, tiling: Tiling, tensor: int, layers: int, aligned: bool) -> Parts:
        """The cells, and what the next layers read of this map that are computed without an exchange: as many as read
        beyond their own pixels, and those between. Ranks without a cell have no part."""
        return self._of_all(tiling, layers, aligned)[tensor] if layers else self.of(tiling, tensor, aligned)

    def _bands(self, tiling: Tiling) -> tuple[tuple[int, ...], ...]:
        """The fastest ranks, as many as there are tiles, in the order of their places."""
        fastest = sorted(self._weights, key=lambda rank: (-self._weights[rank], rank))[: tiling.tiles]
        return tiling.bands([rank for rank in self._weights if rank in fastest])

    def _of(self, tiling: Tiling, tensor: int, aligned: bool) -> Parts:
        whole = self._graph.tensors[tensor].region
        cut = aligned_spans if aligned else spans
        bands = self.bands(tiling)
        weights = [[self._weights[rank] for rank in band] for band in bands]
        home = next((number for number, band in enumerate(bands) if MASTER in band), None)
        found = {}
        for band, shares, rows in zip(bands, weights, cut(len(whole.rows), list(map(sum, weights)), home), strict=True):
            for rank, columns in zip(band, cut(len(whole.columns), shares, place_of(MASTER, band)), strict=True):
                if region := Region(whole.channels, rows, columns):
                    found[rank] = region
        return found

    def _fused(self, tiling: Tiling, layers: int, aligned: bool) -> Mapping[int, Parts]:
        """Tensor → its ``fused`` cells; those that are made last come first, because others follow from them."""
        found: dict[int, Parts] = {}
        for tensor in self._last_first:
            boxes = {rank: [region] for rank, region in self.of(tiling, tensor, aligned).items()}
            for layer in self._readers[tensor]:
                if isinstance(layer, Host) or self._graph.tensors[layer.target].shape[2:] == (1, 1):
                    continue
                made = self.fused(tiling, layer.target, layers - 1, aligned) if layer.reaches else found[layer.target]
                for rank, region in self._read(tensor, layer, made):
                    if rank in boxes:
                        boxes[rank].append(region)
            found[tensor] = {rank: bounding(regions) for rank, regions in boxes.items()}
        return found

    def _read(self, tensor: int, layer: Layer, made: Parts) -> Iterator[tuple[int, Region]]:
        """(rank, what it reads of a map to make these parts of a layer's output)."""
        channels = self._graph.tensors[tensor].region.channels
        for rank, region in made.items():
            if layer.relabels:
                yield rank, region.with_channels(channels)
                continue
            needs = layer.needs_if_any(self._graph.tensors, Work(rank, region))
            yield from ((rank, box.with_channels(channels)) for source, box in needs if source == tensor)
