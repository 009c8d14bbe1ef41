"""PlannedModel: how a model would be distributed, without a cluster: a table, a picture, a simulation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fogconv.analysis.forecast import Forecast, forecast
from fogconv.analysis.listing import listing
from fogconv.analysis.plan_table import plan_table
from fogconv.analysis.timeline import draw
from fogconv.api.model import AnyModel, graph_of
from fogconv.calibration.narrow import without_instruction
from fogconv.errors import InputError, shown
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.plan import Plan, save_plan
from fogconv.ir.program import Program
from fogconv.lowering.lower import lower
from fogconv.planning.limits.allowed import Allowed
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan as make_plan
from fogconv.quantization.precision import for_shapes
from fogconv.simulation.simulator import Timeline, simulate
from fogconv.zoo.model_request import is_model_file


@dataclass(frozen=True)
class PlannedModel:
    """A model (``graph``), the cluster it was planned for (``topology``) and the division of work (``plan``)."""

    graph: LayerGraph
    topology: Topology
    plan: Plan
    allowed: Allowed = Allowed()
    """The pins within which it was planned."""

    @property
    def predicted_s(self) -> float | None:
        """Seconds per inference by the cost model; None for a plan without them."""
        return self.plan.predicted_s

    @cached_property
    def forecast(self) -> Forecast:
        """Per layer the split and the predicted seconds; per rank its bytes on the wire and in memory."""
        return forecast(self.graph, self.plan, self.topology, self.allowed)

    @cached_property
    def programs(self) -> tuple[Program, ...]:
        """One program per rank: its work in one inference."""
        return lower(self.graph, self.plan).programs

    @property
    def precision_note(self) -> str:
        """A sentence about the ranks that have no instruction for the model's precision, and what that costs there, as far
        as it is known of the devices; else empty."""
        return without_instruction(self.graph, self.topology)

    def table(self, width: int = 80) -> str:
        """The plan as text: a line per layer, a line per rank; no line is longer than ``width`` characters."""
        return plan_table(self.forecast, width)

    def listing(self, rank: int) -> str:
        """The program of one rank as text. Raises IndexError for a rank that the plan lacks."""
        return listing(self.programs[rank])

    def plot(self, path: str | Path) -> None:
        """Draw a timeline into a .png, .svg or .pdf.

        Raises InputError for another suffix, DependencyError without matplotlib.
        """
        draw(Path(path), self.graph, self.plan, self.topology, self.allowed)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, for ``fogconv run --plan`` or `load_plan`."""
        save_plan(self.plan, path)

    def simulate(self, **options: Any) -> Timeline:
        """Simulate inferences message by message; ``options`` are those of `fogconv.simulation.simulator.simulate`
        (``inferences``, ``in_flight``, ``disturbance``, …)."""
        return simulate(self.programs, self.topology, **options)


def plan(
    model: AnyModel,
    topology: Topology,
    *,
    example: Any = None,
    options: PlanOptions | None = None,
    weights: str = "random",
    size: int | tuple[int, int] | None = None,
    trust: bool = False,
    precision: str = "fp32",
    **keywords: Any,
) -> PlannedModel:
    """Plan a model for a cluster that need not exist.

    ``model``, ``example``, ``weights``, ``size`` and ``trust`` are those of `compile`; a plan depends on shapes only, so
    no published weights are downloaded. ``topology`` gives the rates of devices and links (`Topology.uniform`, or a
    profile's). ``precision`` is "fp32", "fp16" or "bf16", or "int8" for maps and weights in 8 bits wherever workers can.
    Plan options are ``options`` or its fields as keywords (``scheme="rows"``). Raises InputError, ModelError, PlannerError.
    """
    if not isinstance(topology, Topology):
        raise InputError(f"{shown(str(topology))} is no Topology; fogconv.Topology.uniform(ranks, …) makes one")
    if isinstance(model, str | Path) and is_model_file(str(model)) and weights == "random":
        weights = "pretrained"  # the file brings its own
    graph = for_shapes(graph_of(model, example=example, weights=weights, size=size, trust=trust), precision)
    chosen = options_of(options, keywords)
    chosen.check_ranks(len(topology))
    return PlannedModel(graph, topology, make_plan(graph, topology, chosen), chosen.allowed(graph, len(topology)))


def options_of(options: PlanOptions | None, keywords: dict[str, Any]) -> PlanOptions:
    """Either ``options`` or their fields as keywords; both, or an unknown one, is a TypeError."""
    if options is not None and keywords:
        raise TypeError(f"give either options or {', '.join(sorted(keywords))}, not both")
    return PlanOptions(**keywords) if options is None else options
