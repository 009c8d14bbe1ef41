"""The master in node 0: loads the plan of every cut, then predicts and runs them on request.

python -m bench.offload.master FOLDER JOB        JOB is a Job as JSON
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.fog.conversation import Facts, NodeEnd
from bench.fog.rates import Rates
from bench.swap import Paced
from fogconv.choice.cuts import at_bandwidth, curve, cuts
from fogconv.cli.options.hardware import limited
from fogconv.cluster.connect import connect
from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.session.session import Session
from fogconv.frontend.network import network_graph
from fogconv.ir.arrays import Array
from fogconv.ir.layout import MASTER
from fogconv.ir.program import Program
from fogconv.ir.steps import Pixels
from fogconv.lowering.lower import lower
from fogconv.planning.limits.cuts import slices
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.storage.swap_file import SwapFolder
from fogconv.zoo.model_request import ModelRequest
from fogconv.zoo.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

TIMEOUT_S = 600.0


class Job(msgspec.Struct, frozen=True):
    """``shares`` of a core, master first. ``memory_bytes``: the master's limit, beyond which weights are read from a file of
    ``read_bytes_per_s``; 0: none."""

    net: str
    cluster: str
    shares: tuple[float, ...]
    memory_bytes: int = 0
    read_bytes_per_s: float = 0.0


def main(folder: Path, text: str) -> None:
    job = msgspec.json.decode(text, type=Job)
    with tempfile.TemporaryDirectory(prefix="fogconv-offload-") as swap:
        own = SwapFolder(Path(swap), job.read_bytes_per_s)

        def local(program: Program, weights: Mapping[str, Array], host: Any) -> Executable:
            return Executable(program, Paced(weights, own), threads=1, host=host)

        # Over the slowest links a heartbeat waits behind a map for minutes.
        with connect(
            job.cluster,
            local=local,
            insecure=True,
            timeout_s=TIMEOUT_S,
            heartbeat_s=TIMEOUT_S,
            connect_timeout_s=60.0,
        ) as session:
            serve(job, NodeEnd(folder), session)


def serve(job: Job, experiment: NodeEnd, session: Session) -> None:
    graph = network_graph(ModelRequest(job.net, "random", None, False))
    height, width = graph.picture.shape[2:]
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Preprocessing((height, width), height)(picture)[None]
    pixels = Pixels(IMAGENET_MEAN, IMAGENET_STD)
    rates = Rates(session, graph, image, job.shares)
    experiment.send({"compiled": True})
    experiment.receive()
    topology, _ = rates.topologies()
    experiment.send({"calibrated": True})
    experiment.receive()
    if job.memory_bytes:
        topology = limited(topology, job.memory_bytes, job.read_bytes_per_s, ranks=[MASTER])
    swaps = bool(job.memory_bytes)
    places = [
        replace(cut, plan=replace(cut.plan, pixels=cut.plan.pixels and pixels))
        for cut in cuts(graph, topology, "shrinking", allow_swap=swaps)
    ]
    groups = slices(graph)
    loaded = []
    for place in places:
        lowered = lower(graph, place.plan)
        loaded.append(session.load(lowered.programs, lowered.weights))
    reference = session.run(loaded[-1], [image]).outputs[0]

    def run(asked: Any) -> Facts:
        if "predict" in asked:
            there = at_bandwidth(topology, asked["predict"])
            options = PlanOptions("offload", cuts="shrinking", allow_swap=swaps, pixels=pixels)
            chosen = plan(graph, there, options)
            at_home = [all(work.rank == MASTER for i in group for work in chosen.placements[i].work) for group in groups]
            found = curve(graph, topology, places, asked["predict"])
            k = at_home.index(False) if False in at_home else len(groups)
            return {"seconds": list(found.seconds), "k_chosen": k, "returns": any(at_home[k:])}
        begin = time.perf_counter()
        result = session.run(loaded[asked["cut"]], [image])
        seconds = time.perf_counter() - begin
        difference = float(np.abs(result.outputs[0] - reference).max() / np.abs(reference).max())
        return {"seconds": seconds, "difference": difference}

    experiment.serve({"slices": len(groups), "sent_bytes": [place.sent_bytes for place in places]}, run)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
