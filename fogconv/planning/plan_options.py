"""PlanOptions: what the user may choose of a plan, and the plan that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from fogconv.errors import InputError
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.guard import Protection
from fogconv.ir.plan import Plan
from fogconv.ir.program import Wire
from fogconv.planning.search import lossless_wire, plan
from fogconv.planning.star import plan_star

if TYPE_CHECKING:
    from fogconv.hardware.topology import Topology
    from fogconv.ir.graph import LayerGraph


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What the user may choose of a plan; see `fogconv.planning.search.plan`. A plan given is taken while all its ranks
    live."""

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
    """Watch how long ranks and links take, and plan anew where that is off (`fogconv.runtime.drift`)."""
    protection: Protection = Protection()
    """Star: check, code, or do not wait for what workers compute (`fogconv.ir.guard`)."""

    def __post_init__(self) -> None:
        if self.protection and (self.scheme not in ("auto", "star") or self.plan is not None):
            what = f"--scheme {self.scheme}" if self.plan is None else "a plan that is given"
            raise InputError(f"--verify, --redundancy and --patience guard the star's convs, not {what}")

    def plan_for(self, graph: LayerGraph, topology: Topology) -> Plan:
        """Raises what `fogconv.planning.search.plan` and `fogconv.planning.star.plan_star` raise."""
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


WIRES = ("fp32", "fp16", "bf16", "lossless", "zeros", "lz4", "zstd")
"""What --wire takes: `program.Wire`, and "lossless" for the best of those that lose nothing."""


def wire_of(name: str, graph: LayerGraph, topology: Topology, scheme: str) -> Wire:
    """The Wire that a name of WIRES stands for on these links."""
    if name != "lossless":
        return cast("Wire", name)
    installed: list[Wire] = [library for library, module in _COMPRESSORS.items() if find_spec(module) is not None]
    return lossless_wire(graph, topology, scheme, ["fp32", "zeros", *installed])


_COMPRESSORS: dict[Wire, str] = {"lz4": "lz4", "zstd": "zstandard"}
