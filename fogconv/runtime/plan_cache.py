"""Playbook: what each crew does: its plan and its programs. Kept: a crew thought of once is loaded at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from fogconv.hardware.topology import Topology
from fogconv.ir.graph import Array, LayerGraph
from fogconv.ir.plan import Plan
from fogconv.ir.program import Gather, Program, Recv, Send
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import Choices
from fogconv.runtime.membership import topology_of

PLAYS_KEPT = 32


@dataclass(frozen=True, slots=True)
class Play:
    """``programs`` have the session's ranks, ``plan`` has its own; ``weights`` holds every array that they name."""

    plan: Plan
    programs: tuple[Program, ...]
    weights: Mapping[str, Array]


class Playbook:
    """Plans and plays by crew, for the topology that they were made for. May be read by several threads."""

    def __init__(self, graph: LayerGraph, choices: Choices) -> None:
        self._graph = graph
        self._choices = choices
        self._plans: dict[tuple[int, ...], tuple[Topology, Plan]] = {}
        self._plays: dict[tuple[int, ...], tuple[Topology, Play]] = {}

    def plan(self, topology: Topology, crew: tuple[int, ...]) -> Plan:
        """Raises what `Choices.plan_for` raises."""
        found = self._plans.get(crew)
        if found is None or found[0] is not topology:
            found = topology, self._choices.plan_for(self._graph, topology_of(topology, crew))
            _keep(self._plans, crew, found)
        return found[1]

    def play(self, topology: Topology, crew: tuple[int, ...]) -> Play:
        """Raises what `Choices.plan_for` raises."""
        found = self._plays.get(crew)
        if found is None or found[0] is not topology:
            plan = self.plan(topology, crew)
            lowered = lower(self._graph, plan)
            programs = tuple(renumber(program, crew) for program in lowered.programs)
            found = topology, Play(plan, programs, lowered.weights)
            _keep(self._plays, crew, found)
        return found[1]


def _keep(kept: dict[Any, Any], key: Any, value: Any) -> None:
    """The latest so many. Each step is one that no other thread can come into."""
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
