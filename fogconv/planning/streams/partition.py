"""Partition: consecutive layers go to one group of ranks each, such that the slowest one takes as little as possible.

    layers   0 1 2 3 4 5 6 7 8 9
    rank 0   └───┘                    a stage: what its layers take there, and handling the tensors that come and go
    rank 2         └───────┘
    rank 1                   └─┘

The groups are in a given order; one may get nothing. With best[k][j] for the slowest of the first k groups, which have the
layers before j: best[k][j] = min over i of max(best[k − 1][i], what layers i … j − 1 take in the k-th group). Each frame
passes all stages, one after the other, and while one rank has it, the others have those before and after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from fogconv.hardware.topology import Topology
from fogconv.ir.geometry import BYTES_PER_ELEMENT, Region
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv, Host, Layer
from fogconv.ir.layout import MASTER
from fogconv.ir.memory.algorithm import cheapest, packed_bytes
from fogconv.ir.memory.footprint import room
from fogconv.ir.shard import Work
from fogconv.ir.steps import WIRE_BYTES, Wire
from fogconv.planning.cost import Prices
from fogconv.planning.streams.group import Group, group_work

MAPS = 2.5
"""What a stage holds of maps, in the largest input and output of one of its layers: with their margins, and as messages."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The layers from ``start`` to ``stop`` − 1 in one group of ranks."""

    group: Group
    start: int
    stop: int


class Loads:
    """What each layer of a graph takes in a group of ranks, in seconds and in bytes; ``apart`` are the layers that are not
    cut into stages, and that all ranks take part in."""

    def __init__(self, graph: LayerGraph, topology: Topology, wire: Wire, apart: frozenset[int] = frozenset()) -> None:
        self._graph, self._topology = graph, topology
        self._prices = Prices(topology, graph.picture.batch, wire)
        self._batch = graph.picture.batch
        self._wire_bytes = WIRE_BYTES[wire] * self._batch
        whole: list[Work | None] = [
            None if index in apart or layer.relabels or isinstance(layer, Host) else Work(0, _region(graph, layer))
            for index, layer in enumerate(graph.layers)
        ]
        self._whole = [None if work is None else work.output for work in whole]
        self._seconds: dict[Group, list[float]] = {}
        self._weights = list(
            accumulate(
                (
                    weight_bytes(layer) if work is not None and isinstance(layer, Conv) else 0
                    for layer, work in zip(graph.layers, whole, strict=True)
                ),
                initial=0,
            )
        )
        self.maps = [
            0
            if work is None
            else BYTES_PER_ELEMENT
            * self._batch
            * sum(graph.tensors[tensor].region.elements for tensor in (*layer.reads, *layer.writes))
            for layer, work in zip(graph.layers, whole, strict=True)
        ]
        self.plain = [
            BYTES_PER_ELEMENT * layer.spec.weight_elements if work is not None and isinstance(layer, Conv) else 0
            for layer, work in zip(graph.layers, whole, strict=True)
        ]
        self.layers = len(graph.layers)
        self._crossing = _crossing(graph)
        self._cards = [topology.card(rank) for rank in topology.ranks]

    def working_s(self, group: Group, start: int, stop: int) -> float:
        """Of a frame on the slowest rank of a group, with the messages within the group alone."""
        seconds = self._seconds.get(group)
        if seconds is None:
            seconds = self._seconds[group] = list(accumulate(self._layers_s(group), initial=0.0))
        return seconds[stop] - seconds[start]

    def _layers_s(self, group: Group) -> Iterator[float]:
        """Of each layer, with the rows that neighbours exchange before it."""
        graph, rates = self._graph, [self._topology.rate(rank) for rank in group]
        for layer, whole in zip(graph.layers, self._whole, strict=True):
            if whole is None:
                yield 0.0
                continue
            works = group_work(whole, group, rates)
            seconds = max(self._prices.work_s(layer, work, graph.tensors) for work in works)
            if layer.reaches and len(works) > 1:
                rows = [graph.tensors[tensor].region.elements / graph.tensors[tensor].height for tensor in layer.reads]
                seconds += max(self._exchange_s(rank, sum(rows)) for rank in group)
            yield seconds

    def _exchange_s(self, rank: int, elements: float) -> float:
        """Sending so many elements to each neighbour and receiving as many."""
        device, n_bytes = self._topology.devices[rank], elements * self._wire_bytes
        sent = device.send_s_per_byte or device.copy_s_per_byte
        received = device.receive_s_per_byte or device.copy_s_per_byte
        return 2 * (device.copy_s(2 * n_bytes) + n_bytes * (sent + received) + device.step_s + device.message_s)

    def stage_s(self, group: Group, start: int, stop: int) -> float:
        """Of a frame on the slowest rank of a group: its processor's seconds, or its card's where these are more."""
        return max(self._rank_s(rank, group, start, stop) for rank in group)

    def _rank_s(self, rank: int, group: Group, start: int, stop: int) -> float:
        device = self._topology.devices[rank]
        came = self._crossing[start] / len(group) if rank != MASTER or start else 0
        left = self._crossing[stop] / len(group)
        out, into = self._cards[rank]
        copied = (came + left) * self._batch * BYTES_PER_ELEMENT
        handled = (
            device.copy_s(copied)
            + came * self._wire_bytes * (device.receive_s_per_byte or device.copy_s_per_byte)
            + left * self._wire_bytes * (device.send_s_per_byte or device.copy_s_per_byte)
            + 2 * (device.step_s + device.message_s)
        )
        return max(
            self.working_s(group, start, stop) + handled, came * self._wire_bytes * into, left * self._wire_bytes * out
        )

    def stage_bytes(self, start: int, stop: int, frames: float, most_map: int, most_weight: int) -> float:
        """Weights, the largest of which is there twice while it is packed, and maps for so many frames; ``most_map`` and
        ``most_weight`` are those of the stage's layers."""
        return self._weights[stop] - self._weights[start] + most_weight + MAPS * most_map * frames

    def mail_bytes(self, start: int, frames: float) -> float:
        """The messages of so many frames that wait for a stage."""
        return self._crossing[start] * self._wire_bytes * frames


def _region(graph: LayerGraph, layer: Layer) -> Region:
    assert not isinstance(layer, Host)
    return graph.tensors[layer.target].region


def weight_bytes(layer: Conv) -> int:
    """What a conv's weights take as its kernel reads them."""
    return packed_bytes(layer.spec, cheapest(layer.spec))


def _crossing(graph: LayerGraph) -> list[int]:
    """Elements of the tensors that are there before layer j and that layer j or a later one reads, for each j."""
    last: dict[int, int] = {}
    for index, layer in enumerate(graph.layers):
        last |= dict.fromkeys(layer.reads, index)
    last |= dict.fromkeys(graph.results, len(graph.layers))
    made = dict.fromkeys(graph.given, 0)
    for index, layer in enumerate(graph.layers):
        made |= dict.fromkeys(layer.writes, index + 1)
    changes = [0] * (len(graph.layers) + 2)
    for tensor, begin in made.items():
        end = last.get(tensor, begin - 1)
        if end >= begin:
            elements = graph.tensors[tensor].region.elements
            changes[begin] += elements
            changes[end + 1] -= elements
    return list(accumulate(changes))[: len(graph.layers) + 1]


def partition(
    loads: Loads,
    order: Sequence[Group],
    rooms: Mapping[int, float],
    frames: Mapping[int, int],
    busy_s: Mapping[int, float],
    in_flight: int = 1,
) -> tuple[Stage, ...] | None:
    """The stages of the least slowest group, in the given order; None where memory is too small.

    ``rooms``: the bytes that a rank has, where that is limited. ``frames``: for how many a rank has maps at once, by default
    one; the messages of the others that are ``in_flight`` may wait there. ``busy_s``: the seconds that a rank spends on each
    frame beside its stage.
    """
    layers = loads.layers
    best = [0.0, *[math.inf] * layers]
    choices: list[list[int]] = []
    for group in order:
        after, choice = list(best), list(range(layers + 1))
        limit = min(rooms.get(rank, math.inf) for rank in group)
        beside = max(busy_s.get(rank, 0.0) for rank in group)
        copies = max(frames.get(rank, 1) for rank in group)
        held, waiting = copies / len(group), max(0, in_flight - copies) / len(group)
        for stop in range(1, layers + 1):
            most_map = most_weight = 0
            for start in range(stop - 1, -1, -1):
                most_map, most_weight = max(most_map, loads.maps[start]), max(most_weight, loads.plain[start])
                taken = loads.stage_bytes(start, stop, held, most_map, most_weight)
                if loads.working_s(group, start, stop) + beside >= after[stop] or taken > limit:
                    break  # an earlier start takes more
                if taken + loads.mail_bytes(start, waiting) > limit:
                    continue
                slowest = max(best[start], loads.stage_s(group, start, stop) + beside)
                if slowest < after[stop]:
                    after[stop], choice[stop] = slowest, start
        best = after
        choices.append(choice)
    if math.isinf(best[layers]):
        return None
    found, stop = [], layers
    for group, choice in zip(reversed(order), reversed(choices), strict=True):
        if choice[stop] < stop:
            found.append(Stage(group, choice[stop], stop))
            stop = choice[stop]
    return tuple(reversed(found))


def memory_room(topology: Topology, rank: int) -> float:
    """The bytes that a rank has for programs."""
    limit = topology.devices[rank].memory_bytes
    return math.inf if limit is None else room(limit)
