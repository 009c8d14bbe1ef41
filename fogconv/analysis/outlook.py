"""Outlook: a model's simulated latency on several computers like this one, each with its own cable."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fogconv.hardware.topology import Device, Link, Topology
from fogconv.ir.graph import LayerGraph
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.simulation.simulator import simulate

GIGABIT = 1e9
LATENCY_S = 2e-4
"""The latency of a message through a switch and two systems."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """Simulated seconds per inference: on ``ranks`` equal computers, and on one of them alone."""

    ranks: int
    bits_per_s: float
    together_s: float
    alone_s: float


def outlook(graph: LayerGraph, device: Device, ranks: int, bits_per_s: float = GIGABIT) -> Outlook:
    """The outlook of the cheapest plan for so many of this device. Raises DependencyError without simpy."""
    alone = replace(device, machine="")
    topology = Topology((alone,) * ranks, {}, Link(LATENCY_S, 8 / bits_per_s))

    def seconds(scheme: str) -> float:
        programs = lower(graph, plan(graph, topology, PlanOptions(scheme))).programs
        return simulate(programs, topology, keep_events=False).latencies_s[0]

    return Outlook(ranks, bits_per_s, seconds("auto"), seconds("local"))
