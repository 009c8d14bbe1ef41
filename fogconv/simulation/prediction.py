"""Prediction: what a plan takes, as its programs take it when they are simulated.

The planner's figure, the calculator's for a net and the simulator's are this one, so that the same work has the same price
whatever asks for it. What a search adds up while it compares paths (`fogconv.planning.cost`) leaves out that layers
overlap, that messages queue, and which inputs a rank holds already; it only finds the plans that are worth pricing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.plan import Placement, Plan
from fogconv.ir.program import Program
from fogconv.ir.steps import Recv, Send
from fogconv.lowering.lower import outline
from fogconv.simulation.consumption import joules_per_inference
from fogconv.simulation.layer_times import Timed, Times, by_layer, layer_times
from fogconv.simulation.simulator import Disturbance, Seconds, simulate

SEEDS, IN_A_ROW = 8, 3
"""With quotas: the number of simulations, and of inferences back to back in each (the first is left out), because a
device's position in its quota's period differs from inference to inference."""


def predicted(
    graph: LayerGraph,
    plan: Plan,
    topology: Topology,
    *,
    programs: Sequence[Program] | None = None,
    seconds: Seconds | None = None,
    seeds: int = SEEDS,
) -> Plan:
    """The plan with its seconds, of every layer, of the start and end, and of the whole, and with its joules. Its other
    fields are kept.

    ``programs`` are the plan's, where they are known; ``seconds`` predicts convs instead of γ·MACs. With quotas, the mean of
    ``seeds`` simulations: the default is enough for the whole, but single layers differ by a fifth from one eight to the
    next.
    """
    if programs is None:
        programs = outline(graph, plan)
    bursts = any(device.share < 1 for device in topology.devices)
    latency_s, runs = 0.0, 0
    spent: list[float | None] = []
    sums: list[dict[str, float]] = [defaultdict(float) for _ in plan.placements]
    for seed in range(seeds if bursts else 1):
        timeline = simulate(
            programs,
            topology,
            inferences=IN_A_ROW if bursts else 1,
            disturbance=Disturbance(seed=seed),
            seconds=seconds,
            keep_events=False,
        )
        spent.append(joules_per_inference(programs, topology, timeline))
        first = 1 if bursts else 0
        for latency, times in zip(timeline.latencies_s[first:], timeline.times[first:], strict=True):
            runs += 1
            latency_s += latency
            for found, terms in zip(sums, _terms(plan, programs, times), strict=True):
                for term, value in terms.items():
                    found[term] += value
    placements = tuple(
        replace(placement, predicted={term: value / runs for term, value in found.items()} if placement.work else {})
        for placement, found in zip(plan.placements, sums, strict=True)
    )
    whole_s = latency_s / runs
    layers_s = sum(placement.predicted.get("total_s", 0.0) for placement in placements)
    known = [each for each in spent if each is not None]
    joules = sum(known) / len(known) if known else None
    return replace(plan, placements=placements, predicted_s=whole_s, ends_s=whole_s - layers_s, predicted_j=joules)


STREAMED = 5
"""Frames of a stream that is simulated, in as many as are in flight."""


def frames_of_stream(plan: Plan, each: int) -> int:
    """How many frames tell a stream's rate, with so many in flight on each of its plans."""
    return STREAMED * each * len(plan.lanes) + 1


def streamed(graph: LayerGraph, plan: Plan, topology: Topology, *, in_flight: int | None = None) -> Plan:
    """The plan with its frames per second, where frames are streamed over it and the plans beside it: ``in_flight`` on each,
    or as many as the plan states."""
    first, *beside = (outline(graph, lane) for lane in plan.lanes)
    each = in_flight or max(lane.in_flight for lane in plan.lanes)
    timeline = simulate(
        first,
        topology,
        inferences=frames_of_stream(plan, each),
        in_flight=each,
        beside=beside,
        keep_events=False,
    )
    return replace(plan, frames_per_s=timeline.frames_per_s)


def _terms(plan: Plan, programs: Sequence[Program], times: Times) -> list[Mapping[str, float]]:
    """The terms of every layer, such that those before and after its work and the work add up to its total."""
    found = layer_times(plan, programs, times)
    if plan.scheme == "star":
        return list(found)
    steps = by_layer(programs, times)
    return [
        _in_a_row(placement, terms, steps[index])
        for index, (placement, terms) in enumerate(zip(plan.placements, found, strict=True))
    ]


def _in_a_row(placement: Placement, terms: Mapping[str, float], steps: Sequence[Timed]) -> dict[str, float]:
    """What is left of the layer's total beside its work is split between bringing its inputs and summing its results, by
    the ranks' seconds for messages before and after their work."""
    total_s, edge_s = terms["total_s"], min(terms["edge_s"], terms["total_s"])
    before, after = 0, 0
    worked = set()
    workers = {work.rank for work in placement.work}
    for timed in steps:
        if not isinstance(timed.step, Send | Recv):
            worked.add(timed.rank)
            continue
        spent = timed.end - (timed.before if isinstance(timed.step, Recv) else timed.begin)
        if placement.target is not None and (timed.rank in worked or timed.rank not in workers):
            after += spent
        else:
            before += spent
    sum_s = (total_s - edge_s) * after / (before + after) if after else 0.0
    move_s = total_s - edge_s - sum_s
    return {"edge_s": edge_s, "wait_s": move_s, "tx_s": move_s, "rx_s": sum_s, "total_s": total_s}
