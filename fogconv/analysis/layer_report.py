"""Report: each layer's predicted and measured cost, from a plan and the times of a run.

For the star the five terms of the paper, one after the other on the master's clock:

    part   cutting: the master's sends          tx    until the last worker has its shard
    edge   until the last shard is computed     rx    until the last partial OFM is here
    join   summing, concatenating, the epilogue

For other schemes the ranks work at the same time: edge_s, wait_s, tx_s and rx_s are the slowest rank's work, waiting,
sending and receiving; total_s is the time from the end of the previous layer to the end of this one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.analysis.trace import Event
from fogconv.ir.graph import Conv, LayerGraph
from fogconv.ir.plan import Placement, Plan
from fogconv.ir.program import AnyStep, Gather, Input, Output, Program, Recv, Send, gathers
from fogconv.planning.cost import WIRE_BYTES
from fogconv.speedup.model import Terms

STAR_TERMS = ("part_s", "tx_s", "edge_s", "rx_s", "join_s", "total_s")
TERMS = ("edge_s", "wait_s", "tx_s", "rx_s", "total_s")

Times = Mapping[int, NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class _Timed:
    rank: int
    step: AnyStep
    begin: int
    end: int
    before: int
    """The end of the step before it."""


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
    predicted: Mapping[int, Terms] | None = None,
) -> list[LayerReport]:
    """One report per conv (or per layer), in the graph's order.

    ``predicted`` (layer → terms) replaces the plan's own figures: `fogconv.analysis.star_terms` takes into account which
    inputs the workers already hold from earlier layers; the plan does not.
    """
    by_layer = _by_layer(programs, times)
    terms = STAR_TERMS if plan.scheme == "star" else TERMS
    reports = []
    frontier = min((timed.begin for steps in by_layer.values() for timed in steps), default=0)
    for index, (layer, placement) in enumerate(zip(graph.layers, plan.placements, strict=True)):
        steps = by_layer[index]
        if plan.scheme == "star":
            measured = _star(steps) if placement.mode == "star" else _alone(steps)
        else:
            measured = _resident(steps, frontier)
        frontier = max([frontier, *(timed.end for timed in steps)])
        if convs_only and not (isinstance(layer, Conv) and not layer.linear):
            continue
        found = None if predicted is None else predicted.get(index)
        expected = placement.predicted if found is None else {**asdict(found), "total_s": found.total_s}
        reports.append(_report(graph, index, placement, plan, {t: expected.get(t) for t in terms}, measured, steps))
    return reports


def trace_events(programs: Sequence[Program], times: Times) -> list[Event]:
    """The timeline of a run: every step on its rank's row, and the waits between them."""
    events = []
    for timed in _timed(programs, times):
        name = next(p for p in programs if p.rank == timed.rank).layers[timed.step.layer]
        kind = type(timed.step).__name__.lower()
        if isinstance(timed.step, Recv) and timed.begin > timed.before:
            events.append(Event(timed.rank, f"wait {name}", timed.before / 1e9, timed.begin / 1e9, "wait"))
        row = {"send": "transmit", "recv": "receive", "gather": "receive"}.get(kind, "compute")
        events.append(Event(timed.rank, f"{kind} {name}", timed.begin / 1e9, timed.end / 1e9, kind, row))
    return events


def _timed(programs: Sequence[Program], times: Times) -> Iterator[_Timed]:
    for program in programs:
        if program.rank not in times:
            continue
        before = None
        for step, (begin, end) in zip(program.steps, times[program.rank].tolist(), strict=True):
            yield _Timed(program.rank, step, begin, end, begin if before is None else before)
            before = end


def _by_layer(programs: Sequence[Program], times: Times) -> dict[int, list[_Timed]]:
    found: dict[int, list[_Timed]] = defaultdict(list)
    for timed in _timed(programs, times):
        if not isinstance(timed.step, Input | Output):
            found[timed.step.layer].append(timed)
    return found


def _seconds(timed: Sequence[_Timed]) -> float:
    return sum(t.end - t.begin for t in timed) / 1e9


def _alone(steps: Sequence[_Timed]) -> dict[str, float | None]:
    total = _seconds(steps)
    return {"part_s": 0.0, "tx_s": 0.0, "edge_s": total, "rx_s": 0.0, "join_s": 0.0, "total_s": total}


def _star(steps: Sequence[_Timed]) -> dict[str, float | None]:
    sends = [t for t in steps if t.rank == 0 and isinstance(t.step, Send)]
    returns = [t for t in steps if t.rank == 0 and isinstance(t.step, Recv | Gather)]
    arrivals = [t for t in steps if t.rank != 0 and isinstance(t.step, Recv)]
    works = [
        t
        for t in steps
        if not isinstance(t.step, Send | Recv | Gather) and (t.rank != 0 or not returns or t.end <= returns[0].begin)
    ]
    if not (returns and works):
        return _alone(steps)
    # On the master's clock: workers may have started with the inputs they hold while the previous layer's result was
    # still being returned.
    begin, end = min(t.before for t in steps if t.rank == 0), max(t.end for t in steps if t.rank == 0)
    part = _seconds(sends)
    cut = begin + int(part * 1e9)
    # No messages: the workers hold the input already, from a layer that reads the same map.
    there = max([cut, *(t.end for t in arrivals)])
    done = max(there, max(t.end for t in works))
    back = min(end, max(done, max(t.begin for t in returns)))
    return {
        "part_s": part,
        "tx_s": (there - cut) / 1e9,
        "edge_s": (done - there) / 1e9,
        "rx_s": (back - done) / 1e9,
        "join_s": (end - back) / 1e9,
        "total_s": (end - begin) / 1e9,
    }


def _resident(steps: Sequence[_Timed], frontier: int) -> dict[str, float | None]:
    ranks = {t.rank for t in steps}

    def slowest(kind: type | tuple[type, ...], *, other: bool = False) -> float:
        return max(
            (_seconds([t for t in steps if t.rank == rank and isinstance(t.step, kind) is not other]) for rank in ranks),
            default=0.0,
        )

    waits = [sum(t.begin - t.before for t in steps if t.rank == rank and isinstance(t.step, Recv)) / 1e9 for rank in ranks]
    end = max((t.end for t in steps), default=frontier)
    return {
        "edge_s": slowest((Send, Recv), other=True),
        "wait_s": max(waits, default=0.0),
        "tx_s": slowest(Send),
        "rx_s": slowest(Recv),
        "total_s": max(0, end - frontier) / 1e9,
    }


def _report(
    graph: LayerGraph,
    index: int,
    placement: Placement,
    plan: Plan,
    predicted: dict[str, float | None],
    measured: Mapping[str, float | None],
    steps: Sequence[_Timed],
) -> LayerReport:
    layer = graph.layers[index]
    decision = placement.decision
    if isinstance(layer, Conv):
        spec = layer.spec
        shape = (spec.in_channels, spec.out_channels, spec.kernel, spec.out_height, spec.out_width)
    else:
        out = graph.tensors[layer.writes[0]]
        shape = (out.channels, out.channels, (1, 1), out.height, out.width)
    element_bytes = WIRE_BYTES[plan.wire] * graph.tensors[graph.input].batch
    star = plan.scheme == "star"
    sent = [t.step.elements for t in steps if isinstance(t.step, Send) and (t.rank == 0 or not star)]
    received = [t.step.elements for t in steps if isinstance(t.step, Recv) and (t.rank == 0 or not star)]
    received += [recv.region.elements for t in steps if isinstance(t.step, Gather) for recv in gathers(t.step)]
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
        int(sum(sent) * element_bytes),
        int(sum(received) * element_bytes),
    )
