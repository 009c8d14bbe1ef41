"""Lane: the plan of a few ranks that take whole frames together: one rank alone, or a pipeline of several.

stage   consecutive layers on one rank, or on a group of ranks, while other ranks have the frames before and after this one
dealt   fully connected layers with many weights, where memory is limited: all ranks of the lane hold some of their
        channels, and compute them when a frame gets there
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv, Host
from fogconv.ir.layout import MASTER
from fogconv.ir.plan import Placement, Plan, at_home
from fogconv.ir.shard import Work, split_channels
from fogconv.planning.cost import Prices
from fogconv.planning.memory import excess, with_swaps
from fogconv.planning.scheme_options import SchemeOptions
from fogconv.planning.streams.group import Group, group_work, in_rows, ways
from fogconv.planning.streams.partition import Loads, Stage, memory_room, partition, weight_bytes
from fogconv.simulation.prediction import streamed

DEALT_SHARE = 0.25
"""A fully connected layer whose weights take more than this part of a rank's memory is dealt out."""
ALONE = 2
"""Frames in flight on a worker that takes whole ones: while it computes one, the next one is on its way."""
TRIES = 12
"""Partitions for one number of frames in flight, each with less room on the ranks that had too little."""
MOST_TOGETHER = 3
"""Ranks in the group that has the first stage."""
STEP = 0.01
"""Of a rank's room: so much less than what was missing, so that the next partition is another one."""


def lane(graph: LayerGraph, topology: Topology, ranks: Sequence[int], options: SchemeOptions, scheme: str) -> Plan | None:
    """The pipeline over these ranks that gives most frames per second, with as many in flight as there is memory for; None
    where the memory is too small."""
    order = sorted(ranks, key=lambda rank: (rank != MASTER, -topology.rate(rank), rank))
    search = _Search(graph, topology, order, options, scheme)
    found: list[Plan] = []
    for together in range(1, 1 + max(1, min(MOST_TOGETHER, len(order) - 1))):
        best = search.best(ways(order, together))
        if best is not None:
            found.append(best)
        if search.roomy:
            break
    if found:
        # What neighbours in a group exchange is estimated; its simulation tells.
        return max(found, key=lambda each: _simulated(graph, topology, each)) if len(found) > 1 else found[0]
    return _swapping(graph, topology, order, options, scheme) if options.allow_swap else None


def _simulated(graph: LayerGraph, topology: Topology, found: Plan) -> float:
    return streamed(graph, found, topology).frames_per_s or 0.0


class _Search:
    """For the best stages of one lane. ``roomy``: memory for as many frames as can be of use, so that it does not matter."""

    def __init__(
        self, graph: LayerGraph, topology: Topology, order: Sequence[int], options: SchemeOptions, scheme: str
    ) -> None:
        self._graph, self._topology, self._order = graph, topology, order
        self._options, self._scheme = options, scheme
        self._dealt = _dealt(graph, topology, order)
        self._loads = Loads(graph, topology, options.coding, frozenset(self._dealt))
        self._shares, self._busy_s = _shares(graph, topology, self._dealt, options)
        self.roomy = False

    def best(self, passes: Sequence[Sequence[Group]]) -> Plan | None:
        """Of all numbers of frames in flight, and all these orders of groups; None where no stages fit."""
        order = self._order
        most = len(order) + 1 if len(order) > 1 else 1 if list(order) == [MASTER] else ALONE
        best: Plan | None = None
        best_rate = 0.0
        for frames in range(most, 0, -1):
            for passed in passes:
                found, rate = self._fitting(passed, frames, best_rate)
                if found is not None:
                    best, best_rate = found, rate
            if frames == most and best_rate >= self._free_rate(passes, frames):
                self.roomy = True
                break
        return best

    def _free_rate(self, passes: Sequence[Sequence[Group]], frames: int) -> float:
        """Frames per second if there were memory enough."""
        free = (partition(self._loads, passed, {}, {}, self._busy_s) for passed in passes)
        return max(_rate(self._loads, stages, self._busy_s, frames) for stages in free if stages is not None)

    def _fitting(self, passed: Sequence[Group], frames: int, least: float) -> tuple[Plan | None, float]:
        """The stages that fit, and their frames per second; None where that is not more than ``least``."""
        graph, topology = self._graph, self._topology
        # A worker does a stage for one frame after the other. All that take part in the layers that are dealt out wait
        # for these, and have other frames meanwhile.
        copies = frames if self._dealt else 1
        held = {rank: frames if rank == MASTER else copies for rank in self._order}
        missing: dict[int, float] = defaultdict(float)
        for _ in range(TRIES):
            rooms = {rank: memory_room(topology, rank) - self._shares[rank] - missing[rank] for rank in self._order}
            stages = partition(self._loads, passed, rooms, held, self._busy_s, frames)
            if stages is None or (rate := _rate(self._loads, stages, self._busy_s, frames)) <= least:
                break
            found = _plan(graph, topology, stages, self._dealt, self._options, self._scheme)
            found = replace(found, in_flight=frames, copies=copies)
            if self._options.allow_swap:
                found = with_swaps(graph, found, topology)
            beyond = excess(graph, found, topology)
            if not beyond:
                return found, rate
            for rank, n_bytes in beyond.items():
                missing[rank] += n_bytes + STEP * memory_room(topology, rank)
        return None, 0.0


def _rate(loads: Loads, stages: Sequence[Stage], busy_s: Mapping[int, float], frames: int) -> float:
    """Frames per second: what the slowest rank allows, and so many frames on their way through all stages."""
    seconds, whole_s = defaultdict(float, busy_s), sum(busy_s.values())
    for stage in stages:
        stage_s = loads.stage_s(stage.group, stage.start, stage.stop)
        whole_s += stage_s
        for rank in stage.group:
            seconds[rank] += stage_s
    return min(1 / max(seconds.values()), frames / whole_s) if whole_s else math.inf


def _swapping(
    graph: LayerGraph, topology: Topology, order: Sequence[int], options: SchemeOptions, scheme: str
) -> Plan | None:
    """The lane as if there were memory enough, with weights on the disks instead."""
    endless = topology
    for rank in order:
        endless = endless.replace_device(rank, replace(topology.devices[rank], memory_bytes=None))
    whole = lane(graph, endless, order, replace(options, allow_swap=False), scheme)
    assert whole is not None
    found = with_swaps(graph, replace(whole, in_flight=1), topology)
    return None if excess(graph, found, topology) else found


def _dealt(graph: LayerGraph, topology: Topology, order: Sequence[int]) -> dict[int, tuple[Work, ...]]:
    """The work of the layers that are dealt out."""
    least = min(memory_room(topology, rank) for rank in order)
    found: dict[int, tuple[Work, ...]] = {}
    for index, layer in enumerate(graph.layers):
        if len(order) > 1 and isinstance(layer, Conv) and layer.linear and weight_bytes(layer) > DEALT_SHARE * least:
            whole = graph.tensors[layer.target].region
            spans = split_channels(len(whole.channels), [1.0] * len(order))
            found[index] = tuple(
                Work(rank, whole.with_channels(span)) for rank, span in zip(sorted(order), spans, strict=True) if span
            )
    return found


def _shares(
    graph: LayerGraph, topology: Topology, dealt: dict[int, tuple[Work, ...]], options: SchemeOptions
) -> tuple[dict[int, float], dict[int, float]]:
    """Bytes and seconds of each rank for the layers that are dealt out."""
    prices = Prices(topology, graph.picture.batch, options.coding)
    n_bytes: dict[int, float] = defaultdict(float)
    seconds: dict[int, float] = defaultdict(float)
    for index, works in dealt.items():
        layer = graph.layers[index]
        assert isinstance(layer, Conv)
        for work in works:
            share = len(work.output.channels) / graph.tensors[layer.target].channels
            n_bytes[work.rank] += share * weight_bytes(layer)
            seconds[work.rank] += prices.work_s(layer, work, graph.tensors)
    return n_bytes, seconds


def _plan(
    graph: LayerGraph,
    topology: Topology,
    stages: Sequence[Stage],
    dealt: dict[int, tuple[Work, ...]],
    options: SchemeOptions,
    scheme: str,
) -> Plan:
    group_of = {index: stage.group for stage in stages for index in range(stage.start, stage.stop)}
    placements = []
    for index, layer in enumerate(graph.layers):
        if layer.relabels or isinstance(layer, Host) or (index not in dealt and group_of[index] == (MASTER,)):
            placements.append(at_home(graph, layer))
        elif index in dealt:
            placements.append(Placement("output", dealt[index], split=f"output:{len(dealt[index])}"))
        else:
            group, whole = group_of[index], graph.tensors[layer.target].region
            work = group_work(whole, group, [topology.rate(rank) for rank in group])
            if in_rows(whole, group):
                placements.append(Placement("rows", work, split=f"rows:{len(work)}"))
            else:
                placements.append(Placement("offload", work, split=f"rank:{work[0].rank}"))
    return Plan(graph.name, len(topology), scheme, tuple(placements), options.coding, pixels=options.pixels)
