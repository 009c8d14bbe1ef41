"""The master in node 0: measures rates, plans for throughput, and streams frames on request.

python -m bench.streams.master FOLDER JOB        JOB is a Job as JSON
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
from fogconv.analysis.forecast import lanes
from fogconv.cluster.connect import connect
from fogconv.cluster.executor.executable import Executable
from fogconv.frontend.ports import arrays_of
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.engine import Engine
from fogconv.runtime.run_options import RunOptions

TIMEOUT_S = 600.0


class Job(msgspec.Struct, frozen=True):
    """``shares`` of a core, master first. ``memory_bytes``: the master's limit, 0 for none; workers state their own."""

    net: str
    cluster: str
    shares: tuple[float, ...]
    scheme: str = "auto"
    memory_bytes: int = 0


def main(folder: Path, text: str) -> None:
    job = msgspec.json.decode(text, type=Job)

    def local(program: Any, weights: Any, host: Any) -> Executable:
        return Executable(program, weights, threads=1, host=host)

    it = Subject(job.net)
    with connect(job.cluster, local=local, insecure=True, timeout_s=TIMEOUT_S, connect_timeout_s=60.0) as session:
        experiment = NodeEnd(folder)
        rates = Rates(session, it.graph, it.image, job.shares)
        experiment.send({"compiled": True})
        experiment.receive()
        topology, _ = rates.topologies()
        experiment.send({"calibrated": True})
        experiment.receive()
        objective = "throughput" if job.scheme == "auto" else None
        options = RunOptions(adapt=False, memory_bytes=job.memory_bytes or None)
        engine = Engine(it.graph, session, topology, PlanOptions(job.scheme, objective=objective), options)
        inputs = arrays_of(it.graph, it.image)

        def run(frames: int) -> Facts:
            """``stamps``: when each result came, in seconds from the start."""
            stamps, errors = [], []
            begin = time.perf_counter()
            for outputs in engine.stream_outputs(inputs for _ in range(frames)):
                stamps.append(time.perf_counter() - begin)
                found = zip(outputs.values(), it.reference, strict=True)
                errors += [float(np.abs(ours - theirs).max() / np.abs(theirs).max()) for ours, theirs in found]
            return {"stamps": stamps, "max_relative_error": max(errors), "events": list(engine.events)}

        plan = engine.plan
        where = [each.text for each in lanes(it.graph, plan)]
        experiment.serve({"scheme": plan.scheme, "lanes": where, "predicted_frames_per_s": plan.frames_per_s}, run)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
