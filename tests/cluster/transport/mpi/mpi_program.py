"""What the MPI tests run under mpirun: ``python -m tests.cluster.transport.mpi.mpi_program WHAT``. Rank 0 prints one
JSON object."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback

import numpy as np

import fogconv.cluster.worker.server
from fogconv.cluster.connect import connect
from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.transport.mpi.endpoint import MpiEndpoint
from fogconv.errors import WorkerLostError
from fogconv.ir.geometry import Region
from tests.cluster.programs import PIECE, FakeExecutable, fake_local, ring, star
from tests.cluster.transport.contract import CHECKS, echo


def contract() -> dict[str, str]:
    """Check by check: an empty string, or what went wrong."""
    endpoint = MpiEndpoint()
    if endpoint.rank:
        echo(endpoint)
        return {}
    results = {}
    for name, check in CHECKS.items():
        try:
            check(endpoint, endpoint.connect("mpi://1"))
            results[name] = ""
        except Exception:
            results[name] = traceback.format_exc()
    for rank in range(1, endpoint.size):
        endpoint.send(rank, codec.encode(m.Bye()))
    endpoint.close()
    endpoint.close()
    results["closing_twice_is_closing"] = ""
    return results


def session() -> dict[str, object]:
    """A star and a ring over all ranks, and what idling for two seconds costs."""
    with connect("mpi://", local=fake_local) as cluster:
        ranks = [info.rank for info in cluster.workers]
        x = np.ones((1, *PIECE.shape), np.float32)
        sums = cluster.run(cluster.load(*star(ranks)), [x]).outputs[0]
        round_trip = cluster.run(cluster.load(*ring(ranks, 2)), [x]).outputs[0]
        before = time.process_time()
        time.sleep(2.0)
        idle_cpu_s = time.process_time() - before
        return {"star": sums.ravel().tolist(), "ring": round_trip.ravel().tolist(), "idle_cpu_s": idle_cpu_s}


def survive() -> dict[str, object]:
    """Rank 0 kills one rank after the other, each in the middle of an inference or a stream, until it is alone."""
    from fogconv.hardware.topology import Topology
    from fogconv.planning.plan_options import PlanOptions
    from fogconv.planning.schemes import STREAMS
    from fogconv.runtime.engine import Engine
    from fogconv.runtime.run_options import RunOptions
    from tests.cluster.fault_cluster import assert_near, image, network, spread

    with connect("inproc://0") as alone:
        expected = Engine(network(), alone, Topology.uniform(1, 1e9, 1e10, 1e-6)).run(image()).output
    with connect("mpi://") as cluster:
        pins = spread(network(), cluster.ranks) if sys.argv[2] == "offload" else ()
        options = PlanOptions(sys.argv[2], threshold=0.0, pins=pins)
        topology = Topology.uniform(cluster.ranks, 1e9, 1e10, 1e-6, copy_s_per_byte=1e-11, step_s=1e-7)
        engine = Engine(network(), cluster, topology, options, RunOptions(adapt=False))

        def infer(times: int) -> None:
            if sys.argv[2] in STREAMS:
                outputs = list(engine.stream([image()] * (times * cluster.ranks)))
                assert len(outputs) == times * cluster.ranks
            else:
                outputs = [engine.run(image()).output for _ in range(times)]
            for output in outputs:
                assert_near(output, expected)

        infer(1)
        crews = [engine.ranks]
        for worker in cluster.workers:
            killer = threading.Timer(0.02, os.kill, (worker.pid, 9))
            killer.start()
            while len(engine.ranks) == len(crews[-1]):
                infer(1)
            crews.append(engine.ranks)
            infer(3)
        return {"crews": crews, "events": list(engine.events)}


def halves() -> dict[str, object]:
    """A small net in 16 bits, cut in rows over all ranks: how far each answer is from one device's, of its greatest value,
    and what the maps travel as."""
    from fogconv.hardware.topology import Topology
    from fogconv.lowering.lower import lower
    from fogconv.planning.plan_options import PlanOptions
    from fogconv.quantization.precision import in_precision
    from fogconv.runtime.engine import Engine
    from fogconv.runtime.run_options import RunOptions
    from tests.quantized_net import network, picture

    graph, once = in_precision(network(), sys.argv[2], None), RunOptions(adapt=False)
    with connect("inproc://0") as alone:
        engine = Engine(graph, alone, Topology.uniform(1, 1e8, 1e10, 1e-7), run_options=once)
        expected = [engine.run(picture(seed)).output for seed in range(3)]
    with connect("mpi://") as cluster:
        engine = Engine(graph, cluster, Topology.uniform(cluster.ranks, 1e8, 1e10, 1e-7), PlanOptions("rows"), once)
        found = [engine.run(picture(seed)).output for seed in range(3)]
        programs = lower(graph, engine.plan).programs
        sent = [step.wire for program in programs for step in program.steps if hasattr(step, "wire")]
        far = [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, expected, strict=True)]
        return {"off": far, "wires": sorted(set(sent)), "ranks": engine.ranks, "events": list(engine.events)}


def flood() -> dict[str, object]:
    """Ranks die while 32 MB to and from each are under way; the others' arrive."""
    region = Region.whole(16, 512, 1024)
    x = np.random.default_rng(0).standard_normal((1, *region.shape), np.float32)
    lost, right = [], True
    with connect("mpi://", local=fake_local) as cluster:
        for victim in (1, 2):
            ranks = [info.rank for info in cluster.workers]
            loaded = cluster.load(*star(ranks, region, ranks=cluster.ranks))
            cluster.run(loaded, [x])
            os.kill(next(info.pid for info in cluster.workers if info.rank == victim), 9)
            try:
                while True:
                    cluster.run(loaded, [x])
            except WorkerLostError as error:
                lost.append(error.rank)
            left = [rank for rank in ranks if rank != victim]
            outputs = cluster.run(cluster.load(*star(left, region, ranks=cluster.ranks)), [x]).outputs
            right &= bool(np.allclose(outputs[0], len(left) * x + sum(left)))
    return {"lost": lost, "right": right}


def linger() -> dict[str, object]:
    """A session that is open until the job is ended."""
    with connect("mpi://", local=fake_local) as cluster:
        print(json.dumps({"pids": [os.getpid(), *(worker.pid for worker in cluster.workers)]}), flush=True)
        time.sleep(60.0)
    return {}


PROGRAMS = {
    "contract": contract,
    "session": session,
    "survive": survive,
    "halves": halves,
    "flood": flood,
    "linger": linger,
}

if __name__ == "__main__":
    if sys.argv[1] not in ("survive", "halves"):
        fogconv.cluster.worker.server.executor = lambda: FakeExecutable  # type: ignore[assignment]
    result = PROGRAMS[sys.argv[1]]()
    if result:
        print(json.dumps(result), flush=True)
