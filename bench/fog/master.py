"""fogconv's master in a node: plans, loads, then runs inferences back to back on request."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.fog.contestants import contestants
from bench.fog.conversation import Facts, NodeEnd
from bench.fog.job import LAYER_SEEDS
from bench.fog.rates import Rates
from bench.fog.workload import Subject
from fogconv.analysis.workload import card_bytes
from fogconv.cluster.session.loaded_program import RunResult
from fogconv.cluster.session.session import Session
from fogconv.hardware.topology import Topology
from fogconv.ir import steps as ir
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv
from fogconv.ir.memory.footprint import footprint
from fogconv.ir.plan import Plan
from fogconv.ir.program import Program
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.planning.star import whole_inference
from fogconv.planning.strategies.option import weight_elements
from fogconv.runtime.engine import Engine
from fogconv.simulation.layer_times import Times, layer_times
from fogconv.simulation.prediction import predicted
from fogconv.simulation.simulator import Disturbance, simulate

if TYPE_CHECKING:
    from bench.fog.job import Job


def plan_facts(found: Plan, graph: LayerGraph, programs: Sequence[Program]) -> Facts:
    """The plan's predictions: seconds, bytes through each card, the largest share of the conv weights on one rank."""
    stored, whole = dict.fromkeys(range(found.ranks), 0), 1
    for layer, placement in zip(graph.layers, found.placements, strict=True):
        if isinstance(layer, Conv) and not layer.linear:
            whole += layer.spec.weight_elements
            for work in placement.work:
                stored[work.rank] += weight_elements(layer, work)
    return {
        "predicted_s": found.predicted_s,
        "card_bytes": card_bytes(programs),
        "footprint_bytes": [footprint(program).total if program.steps else 0 for program in programs],
        "max_weight_share": max(stored.values()) / whole,
        "modes": [placement.mode for placement in found.placements],
    }


def where_time_went(programs: Mapping[int, Program], times: Times, begin_ns: int) -> Facts:
    """Seconds per rank by kind of step, waiting (the gaps before receives) separately; seconds per layer and rank."""
    ranks: dict[int, dict[str, float]] = {}
    layers: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for rank, spans in sorted(times.items()):
        program, kinds = programs[rank], defaultdict[str, float](float)
        last = begin_ns
        for step, (begin, end) in zip(program.steps, spans.tolist(), strict=True):
            kinds["wait" if isinstance(step, ir.Recv) else "between"] += max(0, begin - last) * 1e-9
            kinds[type(step).__name__] += (end - begin) * 1e-9
            layers[program.layers[step.layer]][rank] += (end - begin) * 1e-9
            last = end
        ranks[rank] = dict(kinds)
    return {"ranks": ranks, "layers": layers}


def mean_layer_times(found: Plan, programs: Sequence[Program], results: Sequence[RunResult]) -> list[dict[str, float]]:
    """The terms of every layer, on average over some inferences."""
    return mean_terms([layer_times(found, programs, result.times) for result in results])


def layer_totals(found: Plan, programs: Sequence[Program], result: RunResult) -> list[float]:
    """Seconds of each layer in one inference."""
    return [terms["total_s"] for terms in layer_times(found, programs, result.times)]


def mean_terms(several: Sequence[Sequence[dict[str, float]]]) -> list[dict[str, float]]:
    """On average: a node's position in its quota's period changes a layer's time by a few ms."""
    return [
        {term: sum(terms[term] for terms in layer) / len(layer) for term in layer[0]} for layer in zip(*several, strict=True)
    ]


def drive(job: Job, folder: Path, session: Session) -> None:
    torch.set_num_threads(1)
    it = Subject(job.net, job.size, job.precision, picture=job.picture)
    experiment = NodeEnd(folder)
    rates = Rates(session, it.graph, it.image, job.shares)
    experiment.send({"compiled": True})
    experiment.receive()
    topology, idle = rates.topologies()
    experiment.send({"calibrated": True})
    experiment.receive()
    options = PlanOptions(job.scheme, wire=job.wire, pixels=it.pixels, **job.options)
    if job.contest is not None:
        contest(job.contest, it, session, topology, experiment)
        return
    if job.adapt:
        adapt(it, session, topology, options, experiment)
        return
    found = plan(it.graph, topology, options)
    if not any(work.rank for placement in found.placements for work in placement.work):
        topology = idle
        found = predicted(it.graph, found, topology)
    lowered = lower(it.graph, found)
    loaded = session.load(lowered.programs, lowered.weights, host=it.host)
    first = session.run(loaded, it.inputs)
    facts = plan_facts(found, it.graph, lowered.programs) | it.error(first) | rate_facts(topology)
    facts |= {
        "layers": layer_facts(it.graph, predicted(it.graph, found, topology, programs=lowered.programs, seeds=LAYER_SEEDS))
    }
    simulated = simulate(lowered.programs, topology, inferences=2, keep_events=False)
    begin_ns = round(simulated.latencies_s[0] * 1e9)
    facts |= {"predicted_trace": where_time_went(dict(enumerate(lowered.programs)), simulated.times[1], begin_ns)}
    facts |= {"agreement": agreement(it.graph, topology, found, lowered.programs, options)}
    worked = zip(simulated.processor_s, topology.devices, strict=True)
    facts |= {"cpu_s": [seconds * device.share / 2 for seconds, device in worked]}
    facts |= {"steps": [len(program.steps) for program in lowered.programs]}

    def run(repeats: int) -> Facts:
        results: list[RunResult] = []
        stamps = [time.perf_counter()]
        for _ in range(repeats):
            results.append(session.run(loaded, it.inputs))
            stamps.append(time.perf_counter())
        return {
            "seconds": np.diff(stamps).tolist(),
            "inferences": repeats,
            "latency_s": [result.latency_s for result in results],
            "layer_s": mean_layer_times(found, lowered.programs, results),
            "layer_totals_s": [layer_totals(found, lowered.programs, result) for result in results],
            "trace": [where_time_went(loaded.programs, result.times, result.begin_ns) for result in results],
            **it.error(results[-1]),
        }

    experiment.serve(facts, run)


def rate_facts(topology: Topology) -> Facts:
    """The measured rates."""
    master = topology.devices[0]
    return {
        "gamma": [dict(device.gamma_s_per_mac) for device in topology.devices],
        "message_s": master.message_s,
        "byte_s": [master.send_s_per_byte, master.receive_s_per_byte],
        "links": [[i, j, link.latency_s, link.s_per_byte] for (i, j), link in topology.links.items()],
    }


def layer_facts(graph: LayerGraph, found: Plan) -> list[Facts]:
    return [
        {"name": layer.name, "kind": layer.kind, "split": placement.split, "predicted": dict(placement.predicted)}
        for layer, placement in zip(graph.layers, found.placements, strict=True)
    ]


def agreement(
    graph: LayerGraph, topology: Topology, found: Plan, programs: Sequence[Program], options: PlanOptions
) -> dict[str, float]:
    """Seconds of the same work by the planner and by the simulator, and of a star by the calculator."""
    bursts = any(device.share < 1 for device in topology.devices)
    runs = [
        simulate(programs, topology, inferences=3 if bursts else 1, disturbance=Disturbance(seed=seed), keep_events=False)
        for seed in range(100, 106)
    ]
    figures = {
        "planner_s": found.predicted_s or 0.0,
        "simulator_s": float(np.mean([latency for each in runs for latency in each.latencies_s[-2:]])),
    }
    if found.scheme == "star":
        figures["calculator_s"] = whole_inference(graph, topology, options).chosen_s
    return figures


def adapt(it: Subject, session: Session, topology: Topology, options: PlanOptions, experiment: NodeEnd) -> None:
    """Serve an engine whose rates were measured beside other work, and that corrects them."""
    engine = Engine(it.graph, session, topology, options, lessons=Pupil())

    def run(repeats: int) -> Facts:
        found = []
        for _ in range(repeats):
            done = engine.run(it.image)
            [layers] = [mean_layer_times(done.plan, done.programs, [done.run])]
            found.append((done, layers))
        _, latest = found[-1]
        return {
            "seconds": [done.run.latency_s for done, _ in found],
            "inferences": repeats,
            "predicted_s": [done.plan.predicted_s for done, _ in found],
            "layers": layer_facts(it.graph, engine.plan),
            "layer_totals_s": [layer_totals(done.plan, done.programs, done.run) for done, _ in found],
            "layer_s": mean_terms([layers for done, layers in found if done.plan is engine.plan] or [latest]),
            "events": list(engine.events),
            **it.error(found[-1][0].run),
        }

    experiment.serve({"predicted_s": engine.plan.predicted_s, **rate_facts(topology)}, run)


class Pupil:
    """Where the lessons of an engine end; all its rates may have been measured beside other work."""

    disturbed: frozenset[int] = frozenset()

    def learn(self, slow: Mapping[int, float], thin: Mapping[tuple[int, int], float]) -> None: ...


def _alike(one: Plan, other: Plan) -> bool:
    """Whether both do the same, whatever the schemes are called that found them."""
    return one.same_work(replace(other, scheme=one.scheme))


def contest(seed: int, it: Subject, session: Session, topology: Topology, experiment: NodeEnd) -> None:
    """Serve one plan after another: request N loads the N-th, runs it a few times, and unloads it. Of each it says which is
    the first of the same work."""
    plans = contestants(it.graph, topology, seed)
    first = [next(n for n, (_, other) in enumerate(plans) if _alike(other, found)) for _, found in plans]

    def run(asked: Any) -> Facts:
        number, repeats = asked
        found = plans[number][1]
        lowered = lower(it.graph, found)
        loaded = session.load(lowered.programs, lowered.weights, host=it.host)
        session.run(loaded, it.inputs)
        experiment.send({"loaded": True})
        experiment.receive()
        seconds = [session.run(loaded, it.inputs).latency_s for _ in range(repeats + 1)][1:]
        session.unload(loaded)
        return {"seconds": seconds}

    names = [[name, found.predicted_s, same] for (name, found), same in zip(plans, first, strict=True)]
    experiment.serve({"plans": names, **rate_facts(topology)}, run)
