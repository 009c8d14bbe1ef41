"""The master of `bench.offload.arrival` in node 0: compiles with one worker, then measures with another that has no weights.

python -m bench.offload.arrival_master FOLDER JOB        JOB is a Job as JSON
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.fog.conversation import Facts, NodeEnd
from bench.fog.rates import Rates
from bench.fog.workload import Subject
from fogconv.choice.cuts import at_bandwidth
from fogconv.cluster.connect import connect
from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.session.session import Session
from fogconv.hardware.topology import Topology
from fogconv.ir.layout import MASTER
from fogconv.ir.program import Program
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.arrival.increments import increments
from fogconv.runtime.engine import Engine
from fogconv.runtime.run_options import RunOptions

TIMEOUT_S = 600.0
OPTIONS = PlanOptions("offload")


class Job(msgspec.Struct, frozen=True):
    """``warm`` and ``fresh`` are the addresses of two workers in the other node."""

    net: str
    size: tuple[int, int] | None
    warm: str
    fresh: str
    shares: tuple[float, ...]
    bytes_per_s: float


def opened(address: str) -> Session:
    def local(program: Program, weights: Any, host: Any) -> Executable:
        return Executable(program, weights, threads=1, host=host)

    return connect(address, local=local, insecure=True, timeout_s=TIMEOUT_S, heartbeat_s=TIMEOUT_S, connect_timeout_s=60.0)


def main(folder: Path, text: str) -> None:
    job, experiment = msgspec.json.decode(text, type=Job), NodeEnd(folder)
    it = Subject(job.net, job.size)
    with opened(job.warm) as session:
        rates = Rates(session, it.graph, it.image, job.shares)
        experiment.send({"compiled": True})
        experiment.receive()
        topology = at_bandwidth(rates.topologies()[0], job.bytes_per_s)
        experiment.send({"calibrated": True})
        experiment.receive()
        steps = list(increments(it.graph, topology, OPTIONS))
        for step in steps:
            lowered = lower(it.graph, step.plan)
            loaded = session.load(lowered.programs, lowered.weights, host=it.host)
            session.run(loaded, it.inputs)
            session.unload(loaded)
    facts = {"increments": [[step.plan.predicted_s, len(step.layers)] for step in steps]}
    experiment.serve(facts, lambda _: measured(job, it, topology))


def measured(job: Job, it: Subject, topology: Topology) -> Facts:
    """Answers back to back, from the moment on when the first weights are sent until one after the last has arrived."""
    with opened(job.fresh) as session:
        landed: list[float] = []
        load = session.load

        def timed(*arguments: Any, **keywords: Any) -> Any:
            found = load(*arguments, **keywords)
            landed.append(time.perf_counter() - begin)
            return found

        session.load = timed  # type: ignore[method-assign]
        begin = time.perf_counter()
        engine = Engine(it.graph, session, topology, OPTIONS, RunOptions(early=True, adapt=False))
        answers: list[list[float]] = []
        outputs = []
        while True:
            last = engine.all_there
            done = engine.run(it.inputs)
            away = sum(any(work.rank != MASTER for work in each.work) for each in done.plan.placements)
            answers.append([time.perf_counter() - begin, done.latency_s, away])
            outputs.append(done.output)
            if last:
                break
        final = outputs[-1]
        difference = max(float(np.abs(each - final).max() / np.abs(final).max()) for each in outputs)
        return {"answers": answers, "landed_s": landed, "difference": difference, "shipped": engine.loaded.shipped_bytes}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
