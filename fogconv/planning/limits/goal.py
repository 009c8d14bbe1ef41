"""Goal: what the search saves. Seconds, joules, or joules within a deadline; or, of a stream, seconds per frame.

A path costs seconds and joules. For the first two goals one of them is the weight of a path, and of two paths to one state
the lighter is kept. With a deadline both matter: of the paths to one state all are kept of which no other is better in
both (the Pareto front).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from fogconv.errors import DeadlineError, InputError
from fogconv.hardware.energy import without_energy
from fogconv.hardware.topology import Topology
from fogconv.hardware.units import show_seconds
from fogconv.ir.plan import Plan

Objective = Literal["latency", "throughput", "energy"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)


@dataclass(frozen=True, slots=True)
class Goal:
    """``deadline_s``: the least energy among the plans that take no longer."""

    objective: str = "latency"
    deadline_s: float | None = None

    @property
    def front(self) -> bool:
        """Whether both seconds and joules of a path matter."""
        return self.deadline_s is not None

    def weight(self, seconds: float, joules: float) -> float:
        """Of a path, for the order in which paths are kept."""
        return joules if self.objective == "energy" else seconds

    def measure(self, plan: Plan) -> float:
        """The same of a plan."""
        return self.weight(plan.predicted_s or 0.0, plan.predicted_j or 0.0)

    def check(self, topology: Topology) -> None:
        """Raises InputError where the energy matters and is not known."""
        unknown = without_energy(topology) if self.objective == "energy" else ()
        if unknown:
            raise InputError(
                f"the power of rank {unknown[0]} ({topology.devices[unknown[0]].name}) is not known, so the energy is not "
                "either; use a --preset, or write busy_watts and idle_watts of each device into a profile"
            )

    def within(self, plans: Sequence[Plan]) -> Plan:
        """Of plans with their predictions, the one of least energy that keeps the deadline. Raises DeadlineError."""
        assert self.deadline_s is not None
        kept = [plan for plan in plans if (plan.predicted_s or 0.0) <= self.deadline_s]
        if kept:
            return min(kept, key=lambda plan: (plan.predicted_j or 0.0, plan.predicted_s or 0.0))
        nearest = min(plans, key=lambda plan: plan.predicted_s or 0.0)
        ranks = sorted(nearest.active_ranks)
        where = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
        raise DeadlineError(
            f"no plan of {nearest.graph} keeps the deadline of {show_seconds(self.deadline_s)}: the nearest "
            f"({nearest.scheme}, on {where}) takes {show_seconds(nearest.predicted_s or 0.0)}"
        )
