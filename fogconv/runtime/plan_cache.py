"""PlanCache: the plan and the programs of each set of members. Sets that were planned before are loaded without
planning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from fogconv.errors import DeadlineError
from fogconv.hardware.topology import Topology
from fogconv.ir.arrays import Array
from fogconv.ir.graph import LayerGraph
from fogconv.ir.plan import Plan
from fogconv.ir.program import Program
from fogconv.ir.steps import Gather, Recv, Send
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.runtime.membership import topology_of

PLAYS_KEPT = 32


@dataclass(frozen=True, slots=True)
class CompiledPlan:
    """``programs`` have the session's ranks, ``plan`` has its own; ``weights`` holds every array that they name. ``beside``
    are those of the plans beside it."""

    plan: Plan
    programs: tuple[Program, ...]
    weights: Mapping[str, Array]
    beside: tuple[CompiledPlan, ...] = ()

    @property
    def lanes(self) -> tuple[CompiledPlan, ...]:
        return (self, *self.beside)


class PlanCache:
    """Plans and compiled plans by members, for one topology. Several threads may read it."""

    def __init__(self, graph: LayerGraph, options: PlanOptions) -> None:
        self._graph = graph
        self._options = options
        self._plans: dict[tuple[int, ...], tuple[Topology, Plan]] = {}
        self._plays: dict[tuple[int, ...], tuple[Topology, CompiledPlan]] = {}

    def plan(self, topology: Topology, members: tuple[int, ...]) -> Plan:
        """Raises what `fogconv.planning.planner.plan` raises."""
        found = self._plans.get(members)
        if found is None or found[0] is not topology:
            found = topology, self._planned(topology_of(topology, members), members)
            _keep(self._plans, members, found)
        return found[1]

    def _planned(self, topology: Topology, members: tuple[int, ...]) -> Plan:
        """The first plan keeps the deadline, or there is none. Those after a loss or a slowdown have to be as fast as they
        can be."""
        options = self._options.among(members)
        try:
            return plan(self._graph, topology, options)
        except DeadlineError:
            if not self._plans:
                raise
            return plan(self._graph, topology, replace(options, objective="latency", deadline_s=None))

    def play(self, topology: Topology, members: tuple[int, ...]) -> CompiledPlan:
        """Raises what `fogconv.planning.planner.plan` raises."""
        found = self._plays.get(members)
        if found is None or found[0] is not topology:
            found = topology, self._compiled(self.plan(topology, members), members)
            _keep(self._plays, members, found)
        return found[1]

    def _compiled(self, plan: Plan, members: tuple[int, ...]) -> CompiledPlan:
        lowered = lower(self._graph, plan)
        programs = tuple(renumber(program, members) for program in lowered.programs)
        return CompiledPlan(plan, programs, lowered.weights, tuple(self._compiled(other, members) for other in plan.beside))


def _keep(kept: dict[Any, Any], key: Any, value: Any) -> None:
    """Keep the latest entries only. Each step is atomic for other threads."""
    kept.pop(key, None)
    kept[key] = value
    for old in list(kept)[:-PLAYS_KEPT]:
        kept.pop(old, None)


def renumber(program: Program, ranks: Sequence[int]) -> Program:
    """The program of a plan over ``ranks`` of a larger session: rank i of the plan is rank ``ranks[i]`` there."""
    if all(i == rank for i, rank in enumerate(ranks)):
        return program

    def of(step: Any) -> Any:
        change = msgspec.structs.replace
        match step:
            case Send():
                return change(step, to=ranks[step.to])
            case Recv():
                return change(step, origin=ranks[step.origin])
            case Gather():
                pieces = tuple(change(piece, recv=of(piece.recv)) for piece in step.pieces)
                return change(step, pieces=pieces, code=None if step.code is None else of(step.code))
        return step

    steps = tuple(of(step) for step in program.steps)
    return msgspec.structs.replace(program, rank=ranks[program.rank], ranks=max(ranks) + 1, steps=steps)
