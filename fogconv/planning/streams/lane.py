"""Lane: the plan of a few ranks that take whole frames together: one rank alone, or a pipeline of several.

stage   consecutive layers, computed whole on one rank, while other ranks have the frames before and after this one
dealt   fully connected layers with many weights, where memory is limited: all ranks of the lane hold some of their
        channels, and compute them when a frame gets there
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv, Host
from fogconv.ir.layout import MASTER
from fogconv.ir.plan import Placement, Plan, at_home
from fogconv.ir.shard import Work, split_channels
from fogconv.planning.cost import Prices
from fogconv.planning.memory import excess, with_swaps
from fogconv.planning.scheme_options import SchemeOptions
from fogconv.planning.streams.partition import Loads, Stage, memory_room, partition, weight_bytes

DEALT_SHARE = 0.25
"""A fully connected layer whose weights take more than this part of a rank's memory is dealt out."""
ALONE = 2
"""Frames in flight on a worker that takes whole ones: while it computes one, the next one is on its way."""
TRIES = 12
"""Partitions for one number of frames in flight, each with less room on the ranks that had too little."""
STEP = 0.01
"""Of a rank's room: so much less than what was missing, so that the next partition is another one."""


def lane(graph: LayerGraph, topology: Topology, ranks: Sequence[int], options: SchemeOptions, scheme: str) -> Plan | None:
    """The pipeline over these ranks that gives most frames per second, with as many in flight as there is memory for; None
    where the memory is too small."""
    order = sorted(ranks, key=lambda rank: (rank != MASTER, -topology.rate(rank), rank))
    dealt = _dealt(graph, topology, order)
    loads = Loads(graph, topology, options.coding, frozenset(dealt))
    shares, busy_s = _shares(graph, topology, dealt, options)
    most = len(order) + 1 if len(order) > 1 else 1 if order == [MASTER] else ALONE
    best: Plan | None = None
    best_rate = 0.0
    for frames, passed in product(range(most, 0, -1), _ways(order)):
        # A worker does a stage for one frame after the other. All that take part in the layers that are dealt out wait
        # for these, and have other frames meanwhile.
        copies = frames if dealt else 1
        held = {rank: frames if rank == MASTER else copies for rank in order}
        missing: dict[int, float] = defaultdict(float)
        for attempt in range(TRIES):
            rooms = {rank: memory_room(topology, rank) - shares[rank] - missing[rank] for rank in order}
            stages = partition(loads, passed, rooms, held, busy_s, frames)
            if stages is None or (rate := _rate(loads, stages, busy_s, frames)) <= best_rate:
                break
            found = _plan(graph, len(topology), stages, dealt, options, scheme)
            found = replace(found, in_flight=frames, copies=copies)
            if options.allow_swap:
                found = with_swaps(graph, found, topology)
            beyond = excess(graph, found, topology)
            if not beyond:
                best, best_rate = found, rate
                if attempt == 0 and passed == _ways(order)[0] and frames == most:
                    return best  # memory does not matter
                break
            for rank, n_bytes in beyond.items():
                missing[rank] += n_bytes + STEP * memory_room(topology, rank)
    if best is not None:
        return best
    return _swapping(graph, topology, order, options, scheme) if options.allow_swap else None


def _ways(order: Sequence[int]) -> list[list[int]]:
    """The orders in which a frame may pass the ranks. The master has each frame first, and its result at the end; what it
    computes then takes memory for all frames that are in flight."""
    if len(order) == 1 or order[0] != MASTER:
        return [list(order)]
    workers = order[1:]
    return [[MASTER, *workers, MASTER], [*workers, MASTER], [MASTER, *workers], list(workers)]


def _rate(loads: Loads, stages: Sequence[Stage], busy_s: Mapping[int, float], frames: int) -> float:
    """Frames per second: what the slowest rank allows, and so many frames on their way through all stages."""
    seconds = defaultdict(float, busy_s)
    for stage in stages:
        seconds[stage.rank] += loads.stage_s(stage.rank, stage.start, stage.stop)
    return min(1 / max(seconds.values()), frames / sum(seconds.values())) if any(seconds.values()) else math.inf


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
    ranks: int,
    stages: Sequence[Stage],
    dealt: dict[int, tuple[Work, ...]],
    options: SchemeOptions,
    scheme: str,
) -> Plan:
    rank_of = {index: stage.rank for stage in stages for index in range(stage.start, stage.stop)}
    placements = []
    for index, layer in enumerate(graph.layers):
        if layer.relabels or isinstance(layer, Host) or (index not in dealt and rank_of[index] == MASTER):
            placements.append(at_home(graph, layer))
        elif index in dealt:
            placements.append(Placement("output", dealt[index], split=f"output:{len(dealt[index])}"))
        else:
            work = Work(rank_of[index], graph.tensors[layer.target].region)
            placements.append(Placement("offload", (work,), split=f"rank:{rank_of[index]}"))
    return Plan(graph.name, ranks, scheme, tuple(placements), options.coding, pixels=options.pixels)
