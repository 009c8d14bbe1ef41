"""Lanes: how the ranks of a cluster are divided for a stream, and which division gives most frames per second.

    one lane          a pipeline over all ranks
    a lane per rank   replicas: each rank takes whole frames
    between           several pipelines beside each other, each of ranks with about the same rate together

Frames go to the lane that is free, so that lanes of unlike rates share a stream by their rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fogconv.errors import InputError, PlannerError
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layout import MASTER
from fogconv.ir.plan import Plan
from fogconv.planning.memory import over_memory
from fogconv.planning.scheme_options import SchemeOptions
from fogconv.planning.streams.lane import lane
from fogconv.simulation.prediction import predicted, streamed


def pipeline(graph: LayerGraph, topology: Topology, options: SchemeOptions) -> Plan:
    """Stages of layers on ranks of their own. Raises PlannerError where the ranks have no memory for that, InputError for
    options that are for one frame at a time."""
    _check(options)
    return _priced(graph, topology, _beside(graph, topology, [topology.ranks], options, "pipeline"))


def replicas(graph: LayerGraph, topology: Topology, options: SchemeOptions) -> Plan:
    """Whole frames on every rank that has memory for them. Raises as `pipeline` does."""
    _check(options)
    return _priced(graph, topology, _beside(graph, topology, [[rank] for rank in topology.ranks], options, "replicas"))


def fastest(graph: LayerGraph, topology: Topology, options: SchemeOptions) -> Plan:
    """The lanes that give most frames per second, as they are simulated. Raises as `pipeline` does."""
    _check(options)
    found: list[Plan] = []
    failure: PlannerError | None = None
    for count in range(len(topology), 0, -1):
        scheme = "pipeline" if count == 1 else "replicas" if count == len(topology) else "auto"
        try:
            found.append(_beside(graph, topology, _divided(topology, count), options, scheme))
        except PlannerError as error:
            failure = failure or error
    if not found:
        assert failure is not None
        raise failure
    plans = {tuple(tuple(placed.work for placed in each.placements) for each in plan.lanes): plan for plan in found}
    return max((_priced(graph, topology, plan) for plan in plans.values()), key=lambda plan: plan.frames_per_s or 0.0)


def _check(options: SchemeOptions) -> None:
    given = {
        "--pin": bool(options.pins),
        "--keep-input-home": options.keep_input_home,
        "--deadline": options.deadline_s is not None,
        "--objective energy": options.objective == "energy",
    }
    for option, used in given.items():
        if used:
            raise InputError(f"{option} is for plans of one frame at a time, not for pipelines and replicas; leave one out")


def _divided(topology: Topology, lanes: int) -> list[list[int]]:
    """The ranks in so many groups, whose summed rates are about the same: the fastest ones first, each to the group that has
    least."""
    groups: list[list[int]] = [[] for _ in range(lanes)]
    for rank in sorted(topology.ranks, key=lambda rank: (-topology.rate(rank), rank)):
        least = min(groups, key=lambda group: (sum(topology.rate(each) for each in group), len(group)))
        least.append(rank)
    return sorted((sorted(group) for group in groups), key=lambda group: group[0])


def _beside(
    graph: LayerGraph, topology: Topology, groups: Sequence[Sequence[int]], options: SchemeOptions, scheme: str
) -> Plan:
    """One plan per group; groups that have too little memory are left out. The first plan is the master's where it has
    one."""
    plans = [found for group in groups if (found := lane(graph, topology, group, options, scheme)) is not None]
    if not plans:
        raise _no_room(graph, topology, groups[0], options, scheme)
    first, *others = plans
    return replace(first, beside=tuple(others))


def _no_room(
    graph: LayerGraph, topology: Topology, group: Sequence[int], options: SchemeOptions, scheme: str
) -> PlannerError:
    """What the group would need if it had memory enough."""
    endless = topology
    for rank in topology.ranks:
        endless = endless.replace_device(rank, replace(topology.devices[rank], memory_bytes=None))
    whole = lane(graph, endless, group, replace(options, allow_swap=False), scheme)
    assert whole is not None
    over = over_memory(graph, replace(whole, in_flight=1), topology) or over_memory(graph, whole, topology)
    assert over is not None
    return PlannerError(over.sentence)


def _priced(graph: LayerGraph, topology: Topology, plan: Plan) -> Plan:
    """The plan with its predictions, for a frame alone and for a stream."""
    over = over_memory(graph, plan, topology)
    if over is not None and over.rank == MASTER and plan.beside:
        # The master has no room beside the messages of the other lanes: they go on without its own.
        plan = replace(plan.beside[0], beside=plan.beside[1:])
    beside = tuple(predicted(graph, each, topology, seeds=1) for each in plan.beside)
    return streamed(graph, replace(predicted(graph, plan, topology), beside=beside), topology)
