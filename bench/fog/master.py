"""fogconv's master in a node: plans, loads, then runs inferences back to back on request."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.fog.conversation import Facts, NodeEnd
from bench.fog.rates import Rates
from bench.fog.workload import subject
from fogconv.analysis.workload import card_bytes
from fogconv.cluster.session.loaded_program import Loaded, RunResult
from fogconv.cluster.session.session import Session
from fogconv.frontend.torch.export import export
from fogconv.ir import program as ir
from fogconv.ir.graph import Conv, Host, LayerGraph
from fogconv.ir.plan import Plan
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.planning.strategies.option import weight_elements

if TYPE_CHECKING:
    from bench.fog.job import Job


class Subject:
    """The graph, its host calls, its input, and torch's answer."""

    def __init__(self, net: str) -> None:
        zoo, self.image = subject(net)
        x = torch.from_numpy(self.image)
        with torch.inference_mode():
            self.reference: NDArray[np.float32] = zoo.module(x).numpy()
        self.graph: LayerGraph = export(zoo.module, x, net)

    def host(self, layer: int, values: dict[Any, Any], maps: Any) -> Any:
        call = self.graph.layers[layer]
        assert isinstance(call, Host)
        return call.call(values, *maps)

    def error(self, output: NDArray[Any]) -> Facts:
        difference = np.abs(output.reshape(self.reference.shape) - self.reference)
        return {
            "max_abs_error": float(difference.max()),
            "max_abs_reference": float(np.abs(self.reference).max()),
        }


def plan_facts(found: Plan, graph: LayerGraph, programs: Sequence[ir.Program]) -> Facts:
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
        "max_weight_share": max(stored.values()) / whole,
        "modes": [placement.mode for placement in found.placements],
    }


def where_time_went(loaded: Loaded, result: RunResult) -> Facts:
    """Seconds per rank by kind of step, waiting (the gaps before receives) separately; seconds per layer and rank."""
    ranks: dict[int, dict[str, float]] = {}
    layers: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for rank, times in sorted(result.times.items()):
        program, kinds = loaded.programs[rank], defaultdict[str, float](float)
        last = result.begin_ns
        for step, (begin, end) in zip(program.steps, times.tolist(), strict=True):
            kinds["wait" if isinstance(step, ir.Recv) else "between"] += max(0, begin - last) * 1e-9
            kinds[type(step).__name__] += (end - begin) * 1e-9
            layers[program.layers[step.layer]][rank] += (end - begin) * 1e-9
            last = end
        ranks[rank] = dict(kinds)
    return {"ranks": ranks, "layers": layers}


def drive(job: Job, folder: Path, session: Session) -> None:
    torch.set_num_threads(1)
    it = Subject(job.net)
    experiment = NodeEnd(folder)
    rates = Rates(session, it.graph, it.image, job.shares)
    experiment.send({"compiled": True})
    experiment.receive()
    topology = rates.topology(job.sync_s)
    experiment.send({"calibrated": True})
    experiment.receive()
    found = plan(it.graph, topology, PlanOptions(job.scheme, wire=job.wire, **job.options))
    lowered = lower(it.graph, found)
    loaded = session.load(lowered.programs, lowered.weights, host=it.host)
    first = session.run(loaded, [it.image])
    facts = plan_facts(found, it.graph, lowered.programs) | it.error(first.outputs[0])
    facts |= {"gamma": [dict(device.gamma_s_per_mac) for device in topology.devices]}
    master = topology.devices[0]
    facts |= {"message_s": master.message_s, "byte_s": [master.send_s_per_byte, master.receive_s_per_byte]}
    facts |= {"links": [[i, j, link.latency_s, link.s_per_byte] for (i, j), link in topology.links.items()]}
    facts |= {"steps": [len(program.steps) for program in lowered.programs]}

    def run(repeats: int) -> Facts:
        results: list[RunResult] = []
        stamps = [time.perf_counter()]
        for _ in range(repeats):
            results.append(session.run(loaded, [it.image]))
            stamps.append(time.perf_counter())
        return {
            "seconds": np.diff(stamps).tolist(),
            "latency_s": [result.latency_s for result in results],
            "trace": [where_time_went(loaded, result) for result in results],
            **it.error(results[-1].outputs[0]),
        }

    experiment.serve(facts, run)
