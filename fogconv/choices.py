"""Choices: what the user may choose of a plan, and the plan that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fogconv.errors import InputError
from fogconv.guard import Protection
from fogconv.layers import LayerGraph
from fogconv.plan import Plan
from fogconv.planner import plan
from fogconv.program import Wire
from fogconv.star import plan_star
from fogconv.topology import Topology


@dataclass(frozen=True, slots=True)
class Choices:
    """What the user may choose of a plan; see `fogconv.planner.plan`. A plan given is taken while all its ranks live."""

    scheme: str = "auto"
    trigger: str = "both"
    threshold: float = 1.0
    master_computes: bool = True
    even: bool = False
    wire: Wire = "fp32"
    plan: Plan | None = None
    rehearse: bool = False
    """Plan for losses beforehand: every worker compiles, and is sent, what any single loss would ask of it."""
    adapt: bool = False
    """Watch how long ranks and links take, and plan anew where that is off (`fogconv.pace`)."""
    protection: Protection = Protection()
    """Star: check, code, or do not wait for what workers compute (`fogconv.guard`)."""

    def __post_init__(self) -> None:
        if self.protection and (self.scheme not in ("auto", "star") or self.plan is not None):
            what = f"--scheme {self.scheme}" if self.plan is None else "a plan that is given"
            raise InputError(f"--verify, --redundancy and --patience guard the star's convs, not {what}")

    def plan_for(self, graph: LayerGraph, topology: Topology) -> Plan:
        """Raises what `fogconv.planner.plan` and `fogconv.star.plan_star` raise."""
        if self.plan is not None and self.plan.ranks == len(topology):
            return self.plan
        star: dict[str, Any] = {
            "trigger": self.trigger,
            "threshold": self.threshold,
            "master_computes": self.master_computes,
            "even": self.even,
        }
        if self.protection:
            return plan_star(graph, topology, wire=self.wire, protection=self.protection, **star)
        return plan(graph, topology, scheme=self.scheme, wire=self.wire, **star)
