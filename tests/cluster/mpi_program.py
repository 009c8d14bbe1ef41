"""What the MPI tests run under mpirun: ``python -m tests.cluster.mpi_program WHAT``. Rank 0 prints one JSON object."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback

import numpy as np

import fogconv.cluster.worker
from fogconv.cluster import codec
from fogconv.cluster import messages as m
from fogconv.cluster.connect import connect
from fogconv.cluster.mpi import MpiEndpoint, launched
from tests.cluster.contract import CHECKS, echo
from tests.cluster.programs import PIECE, FakeExecutable, fake_local, ring, star


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


def die() -> dict[str, object]:
    """Rank 1 dies in the middle of everything."""
    launch = launched()
    if launch is not None and launch.rank == 1:
        os.kill(os.getpid(), 9)
    with connect("mpi://", local=fake_local) as cluster:
        cluster.run(cluster.load(*star([1])), [np.ones((1, *PIECE.shape), np.float32)])
    return {}


if __name__ == "__main__":
    fogconv.cluster.worker._interpreter = lambda: FakeExecutable  # type: ignore[assignment]
    result = {"contract": contract, "session": session, "die": die}[sys.argv[1]]()
    if result:
        print(json.dumps(result), flush=True)
