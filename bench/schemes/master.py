"""The master in node 0: plans by every scheme, loads those that are asked for, runs them in any order.

python -m bench.schemes.master FOLDER JOB        JOB is a Job as JSON
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.fog.conversation import Facts, NodeEnd
from bench.fog.rates import Rates
from bench.fog.workload import Subject
from bench.schemes.cells import AUTO
from fogconv.cluster.connect import connect
from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.session.loaded_program import Loaded
from fogconv.cluster.session.session import Session
from fogconv.cluster.worker.weight_cache import WeightStore
from fogconv.errors import InputError, PlannerError
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.memory.footprint import packings
from fogconv.ir.plan import Plan
from fogconv.ir.program import Program
from fogconv.kernels.conv.conv import algorithm_of
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.planning.schemes import Scheme
from fogconv.simulation.prediction import predicted


class Job(msgspec.Struct, frozen=True):
    """``shares`` of a core, master first."""

    net: str
    size: tuple[int, int] | None
    cluster: str
    shares: tuple[float, ...]


def main(folder: Path, text: str) -> None:
    job = msgspec.json.decode(text, type=Job)
    store = WeightStore()

    def local(program: Program, weights: Any, host: Any) -> Executable:
        # Plans share weights as the programs of a worker do: each with its own would take gigabytes.
        for key in store.missing(program.weights, packings(program, algorithm_of)):
            payload = np.ascontiguousarray(weights[key]).reshape(-1).view(np.uint8).data
            store.put(key, program.weights[key], payload)
        return Executable(program, store.lend(program.weights, tight=True), threads=1, host=host)

    with connect(job.cluster, local=local, insecure=True, timeout_s=600.0, connect_timeout_s=60.0) as session:
        serve(job, NodeEnd(folder), session)


def serve(job: Job, experiment: NodeEnd, session: Session) -> None:
    it = Subject(job.net, job.size)
    del it.run_alone  # its framework's copy of the weights
    rates = Rates(session, it.graph, it.image, job.shares)
    experiment.send({"compiled": True})
    experiment.receive()
    topology, idle = rates.topologies()
    experiment.send({"calibrated": True})
    experiment.receive()
    plans = planned(it.graph, topology, idle)
    loaded: dict[str, Loaded] = {}

    def run(asked: Any) -> Facts:
        if "load" in asked:
            for scheme in asked["load"]:
                lowered = lower(it.graph, plans[scheme])
                loaded[scheme] = session.load(lowered.programs, lowered.weights, host=it.host)
                last = session.run(loaded[scheme], it.inputs)
            return {}
        stamps = [time.perf_counter()]
        for _ in range(asked["repeats"]):
            last = session.run(loaded[asked["scheme"]], it.inputs)
            stamps.append(time.perf_counter())
        return {"seconds": np.diff(stamps).tolist(), "relative_error": it.relative_error(last)}

    first = {scheme: next(other for other in plans if alike(plans[other], plans[scheme])) for scheme in plans}
    seconds = {scheme: found.predicted_s for scheme, found in plans.items()}
    experiment.serve({"predicted_s": seconds, "same_as": first}, run)


def planned(graph: LayerGraph, topology: Topology, idle: Topology) -> dict[str, Plan]:
    """The plan of every scheme that has one here, auto's first. What stays at home is predicted while the others idle."""
    found = {}
    for scheme in (AUTO, *(str(each) for each in Scheme if each != AUTO)):
        try:
            made = plan(graph, topology, PlanOptions(scheme))
        except (InputError, PlannerError) as error:
            print(f"{scheme}: {error}", file=sys.stderr)
            continue
        distributed = any(work.rank for placement in made.placements for work in placement.work)
        found[scheme] = made if distributed else predicted(graph, made, idle)
    return found


def alike(one: Plan, other: Plan) -> bool:
    """Whether both do the same, whatever the schemes are called that found them."""
    return one.same_work(replace(other, scheme=one.scheme))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
