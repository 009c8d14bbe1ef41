"""Candidate: one model of the zoo on one cluster, with all that a choice looks at.

Its plan is the one by rows, which is near the fastest and is found in a fourth of the time. Where that one misses
a limit, the master alone is tried, which takes less energy, and, where it does not fit into memory or only just misses, the
fastest of all plans. No torch:
see `fogconv.frontend.zoo_graphs`.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from fogconv.errors import PlannerError
from fogconv.frontend.zoo_graphs import graph as zoo_graph
from fogconv.hardware.energy import joules, without_energy
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv as ConvLayer
from fogconv.ir.memory.footprint import PROCESS_BYTES, footprint
from fogconv.ir.plan import Plan, at_home
from fogconv.ir.program import Program
from fogconv.ir.steps import Conv, Send
from fogconv.lowering.lower import outline
from fogconv.planning.cost import Prices
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan as make_plan
from fogconv.planning.schemes import Scheme
from fogconv.zoo.accuracy import accuracies

NEAR = 1.2
"""The cheapest plan is 2 to 6 % faster than the one by rows on five nodes, up to 20 % on sixteen: it is not looked for where
that one is over by more."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a model may take: seconds and joules per inference, bytes on the device that needs most. None: any."""

    seconds: float | None = None
    memory_bytes: int | None = None
    joules: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """``top1`` in percent. ``seconds`` on the cluster, ``alone_s`` on its master alone (None: it has no room there).

    ``memory_bytes``: of the device that needs most, the process itself included. ``joules``: None where the cluster's power
    is not known. ``at_least``: it was not planned, because no plan can meet the deadline or the energy; seconds and joules
    are bounds, the rest is None. ``missed`` has what is over its limit, and by which factor.
    """

    model: str
    top1: float | None
    seconds: float
    alone_s: float | None = None
    memory_bytes: int | None = None
    joules: float | None = None
    scheme: str | None = None
    ranks: int | None = None
    at_least: bool = False
    missed: tuple[tuple[str, float], ...] = ()

    @property
    def meets_all(self) -> bool:
        return not self.missed

    @property
    def worst(self) -> float:
        """The factor by which it is over the limit that it misses by most; 0 where it meets all."""
        return max((factor for _, factor in self.missed), default=0.0)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"missed": dict(self.missed), "meets_all": self.meets_all}


def candidate(name: str, topology: Topology, limits: Limits, scheme: str | None = None) -> Candidate:
    """The candidate of this name. ``scheme``: by default rows, or auto where that misses a limit. Raises InputError for a
    model that has no graph without torch."""
    graph = zoo_graph(name)
    found = accuracies().get(name)
    top1 = None if found is None else found.top1
    least_s = least_seconds(graph, topology)
    least_j = None if without_energy(topology) else least_joules(graph, topology)
    hopeless = _missed(limits, least_s, least_j)
    if hopeless:
        return Candidate(name, top1, least_s, joules=least_j, at_least=True, missed=hopeless)
    limited = _limited(topology, limits.memory_bytes)
    home = _at_home(graph, limited)

    def judged(plan: Plan) -> Candidate:
        return replace(_judged(graph, plan, limited, limits), top1=top1, alone_s=None if home is None else home.predicted_s)

    # Without regard to memory first: with too little of it a search tries many ways, and none is faster.
    first = judged(make_plan(graph, _unlimited(limited), PlanOptions(scheme or Scheme.ROWS)))
    tried = [first]
    if scheme is None and first.missed and home is not None:
        tried.append(judged(home))  # slower, and cheaper
    over = dict(first.missed)
    near = max(over.get("deadline", 0.0), over.get("energy", 0.0)) <= NEAR
    if all(each.missed for each in tried) and near and (scheme is None or "memory" in over):
        with suppress(PlannerError):
            tried.append(judged(make_plan(graph, limited, PlanOptions(scheme or Scheme.AUTO))))
    return min(tried, key=lambda each: (each.worst, each.seconds))


def least_seconds(graph: LayerGraph, topology: Topology) -> float:
    """What no plan goes below: every layer shared by all ranks at their rates, and nothing sent."""
    prices = Prices(topology, graph.picture.batch)
    total = 0.0
    for layer in graph.layers:
        for work in at_home(graph, layer).work:
            seconds = [prices.work_s(layer, replace(work, rank=rank), graph.tensors) for rank in topology.ranks]
            total += 1 / sum(1 / each for each in seconds) if all(seconds) else 0.0
    return total


def least_joules(graph: LayerGraph, topology: Topology) -> float:
    """What no plan goes below: every layer on the device that takes least for it, and no device that waits."""
    prices = Prices(topology, graph.picture.batch)
    total = 0.0
    for layer in graph.layers:
        for work in at_home(graph, layer).work:
            total += min(
                device.busy_watts * prices.work_s(layer, replace(work, rank=rank), graph.tensors)
                if device.busy_watts
                else device.joules_per_mac * (layer.spec.macs if isinstance(layer, ConvLayer) else 0)
                for rank, device in enumerate(topology.devices)
            )
    return total


def _missed(limits: Limits, seconds: float, spent: float | None, memory: float = 0.0) -> tuple[tuple[str, float], ...]:
    """What is over its limit, and by which factor; ``memory`` is a factor already."""
    over = {
        "deadline": seconds / limits.seconds if limits.seconds else 0.0,
        "memory": memory,
        "energy": spent / limits.joules if limits.joules and spent is not None else 0.0,
    }
    return tuple((what, factor) for what, factor in over.items() if factor > 1)


def _limited(topology: Topology, memory_bytes: int | None) -> Topology:
    if memory_bytes is None:
        return topology
    devices = (
        replace(device, memory_bytes=min(memory_bytes, device.memory_bytes or memory_bytes)) for device in topology.devices
    )
    return replace(topology, devices=tuple(devices))


def _at_home(graph: LayerGraph, topology: Topology) -> Plan | None:
    """The plan of the master alone; None where it has no room."""
    try:
        return make_plan(graph, topology, PlanOptions(Scheme.LOCAL))
    except PlannerError:
        return None


def _unlimited(topology: Topology) -> Topology:
    return replace(topology, devices=tuple(replace(device, memory_bytes=None) for device in topology.devices))


def _judged(graph: LayerGraph, plan: Plan, topology: Topology, limits: Limits) -> Candidate:
    programs = outline(graph, plan)
    needs = [
        PROCESS_BYTES + footprint(program, threads=device.threads).total if program.steps else 0
        for program, device in zip(programs, topology.devices, strict=True)
    ]
    memory_limits = [device.memory_bytes for device in topology.devices]
    seconds = plan.predicted_s or 0.0
    spent = None if without_energy(topology) else _joules(graph, plan, programs, topology)
    memory = max((need / limit for need, limit in zip(needs, memory_limits, strict=True) if limit), default=0.0)
    missed = _missed(limits, seconds, spent, memory)
    return Candidate(graph.name, None, seconds, None, max(needs), spent, plan.scheme, len(plan.active_ranks), missed=missed)


def _joules(graph: LayerGraph, plan: Plan, programs: tuple[Program, ...], topology: Topology) -> float:
    """Ranks that take no part are switched off."""
    active = sorted(plan.active_ranks)
    prices = Prices(topology, graph.picture.batch, plan.wire)
    busy_s: dict[int, float] = defaultdict(float)
    macs: dict[int, float] = defaultdict(float)
    sent: dict[tuple[int, int], float] = defaultdict(float)
    for layer, placement in zip(graph.layers, plan.placements, strict=True):
        for work in placement.work:
            busy_s[work.rank] += prices.work_s(layer, work, graph.tensors)
    for program in programs:
        for step in program.steps:
            if isinstance(step, Conv):
                macs[program.rank] += step.spec.macs
            elif isinstance(step, Send):
                pair = (active.index(program.rank), active.index(step.to))
                sent[pair] += step.elements * program.batch * step.element_bytes
    return joules(
        topology.subset(active),
        latency_s=plan.predicted_s or 0.0,
        busy_s=[busy_s[rank] for rank in active],
        macs=[macs[rank] for rank in active],
        sent_bytes=sent,
    )
