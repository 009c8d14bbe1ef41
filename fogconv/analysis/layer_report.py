"""Report: each layer's predicted and measured cost, from a plan and the times of a run. The terms are those of
`fogconv.simulation.layer_times`, for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv
from fogconv.ir.plan import Placement, Plan
from fogconv.ir.program import Program
from fogconv.ir.steps import WIRE_BYTES, Gather, Recv, Send, gathers
from fogconv.simulation.event import Event
from fogconv.simulation.layer_times import STAR_TERMS, TERMS, Timed, Times, by_layer, layer_times, timed_steps


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One layer; for a layer that is not a conv the shape is the output's and the bounds are None."""

    name: str
    kind: str
    c: int
    f: int
    k: tuple[int, int]
    h: int
    w: int
    bound_s_paper: float | None
    bound_s_star: float | None
    estimate: float | None
    distributed: bool
    split: str | None
    reason: str
    predicted: dict[str, float | None]
    measured: dict[str, float | None]
    bytes_tx: int
    bytes_rx: int

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "c": self.c,
            "f": self.f,
            "k": self.k[0] if self.k[0] == self.k[1] else list(self.k),
            "h": self.h,
            "w": self.w,
            "bound_s_paper": self.bound_s_paper,
            "bound_s_star": self.bound_s_star,
            "estimate": self.estimate,
            "distributed": self.distributed,
            "split": self.split,
            "reason": self.reason,
            "predicted": self.predicted,
            "measured": self.measured,
            "bytes_tx": self.bytes_tx,
            "bytes_rx": self.bytes_rx,
        }


@dataclass(frozen=True)
class OtherLayers:
    """Seconds of an inference that are not of its convolutions: pools, sums, linear layers, start and end."""

    predicted_s: float | None
    measured_s: float


def other_layers(convs: Sequence[LayerReport], predicted_s: float | None, latency_s: float) -> OtherLayers:
    """What is left of an inference of ``latency_s``, predicted to take ``predicted_s``, beside its convs."""
    predicted, measured = (
        sum(terms["total_s"] or 0.0 for terms in found)
        for found in ([conv.predicted for conv in convs], [conv.measured for conv in convs])
    )
    return OtherLayers(None if predicted_s is None else predicted_s - predicted, latency_s - measured)


def layer_reports(
    graph: LayerGraph,
    plan: Plan,
    programs: Sequence[Program],
    times: Times,
    *,
    convs_only: bool = True,
) -> list[LayerReport]:
    """One report per conv (or per layer), in the graph's order."""
    steps = by_layer(programs, times)
    terms = STAR_TERMS if plan.scheme == "star" else TERMS
    measured = layer_times(plan, programs, times)
    reports = []
    for index, (layer, placement) in enumerate(zip(graph.layers, plan.placements, strict=True)):
        if convs_only and not (isinstance(layer, Conv) and not layer.linear):
            continue
        predicted = {term: placement.predicted.get(term) for term in terms}
        reports.append(_report(graph, index, placement, plan, predicted, measured[index], steps[index]))
    return reports


def trace_events(programs: Sequence[Program], times: Times) -> list[Event]:
    """The timeline of a run: every step on its rank's row, and the waits between them."""
    events = []
    for timed in timed_steps(programs, times):
        name = next(p for p in programs if p.rank == timed.rank).layers[timed.step.layer]
        kind = type(timed.step).__name__.lower()
        if isinstance(timed.step, Recv) and timed.begin > timed.before:
            events.append(Event(timed.rank, f"wait {name}", timed.before / 1e9, timed.begin / 1e9, "wait"))
        row = {"send": "transmit", "recv": "receive", "gather": "receive"}.get(kind, "compute")
        events.append(Event(timed.rank, f"{kind} {name}", timed.begin / 1e9, timed.end / 1e9, kind, row))
    return events


def _report(
    graph: LayerGraph,
    index: int,
    placement: Placement,
    plan: Plan,
    predicted: dict[str, float | None],
    measured: Mapping[str, float],
    steps: Sequence[Timed],
) -> LayerReport:
    layer = graph.layers[index]
    decision = placement.decision
    if isinstance(layer, Conv):
        spec = layer.spec
        shape = (spec.in_channels, spec.out_channels, spec.kernel, spec.out_height, spec.out_width)
    else:
        # A host layer's result may be no map.
        out = graph.tensors[(*layer.writes, *layer.reads)[0]] if layer.writes or layer.reads else graph.picture
        shape = (out.channels, out.channels, (1, 1), out.height, out.width)
    batch = graph.picture.batch
    star = plan.scheme == "star"
    sent = [_bytes(t.step) for t in steps if isinstance(t.step, Send) and (t.rank == 0 or not star)]
    received = [_bytes(t.step) for t in steps if isinstance(t.step, Recv) and (t.rank == 0 or not star)]
    received += [_bytes(recv) for t in steps if isinstance(t.step, Gather) for recv in gathers(t.step)]
    ranks = {work.rank for work in placement.work}
    return LayerReport(
        layer.name,
        layer.kind,
        *shape,
        decision.get("bound_s_paper"),
        decision.get("bound_s_star"),
        decision.get("estimate"),
        bool(ranks - {0}),
        placement.split,
        str(decision.get("reason", placement.mode)),
        predicted,
        {term: measured.get(term) for term in predicted},
        int(sum(sent) * batch),
        int(sum(received) * batch),
    )


def _bytes(step: Send | Recv) -> float:
    """Of a message, per image."""
    return step.elements * WIRE_BYTES[step.wire]
