"""The master of a fault campaign: one inference per line on standard input, one JSON object each on standard output.

python -m bench.faults.master NET SCHEME ADDRESS,ADDRESS,…
"""

from __future__ import annotations

import json
import sys
from typing import Any

import psutil
import torch

from bench.fog.workload import Subject
from fogconv.cluster.connect import connect
from fogconv.hardware.topology import Topology
from fogconv.ir.guard import Protection
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.engine import Engine
from fogconv.runtime.run_options import RunOptions


def send(facts: dict[str, Any]) -> None:
    print(json.dumps(facts), flush=True)


def main(net: str, scheme: str, cluster: str, rates: str, protection: str = "{}", mode: str = "") -> None:
    """``rates``: FLOP/s and bytes/s to plan for, such as "2e10,1.25e8". ``mode``: "rehearse" or "adapt"."""
    torch.set_num_threads(1)
    it = Subject(net)
    with connect(cluster, timeout_s=30.0, connect_timeout_s=90.0, insecure=True) as session:
        guard = Protection(**json.loads(protection))
        options = PlanOptions(scheme, threshold=0.0, protection=guard)
        running = RunOptions(rehearse=mode == "rehearse", adapt=mode == "adapt")
        flop_per_s, bytes_per_s = (float(word) for word in rates.split(","))
        topology = Topology.uniform(session.ranks, flop_per_s, bytes_per_s, 1e-4, copy_s_per_byte=3e-10, step_s=2e-5)
        engine = Engine(it.graph, session, topology, options, running)
        send({"ready": True, "workers": len(engine.ranks) - 1})
        for _ in sys.stdin:
            try:
                found = engine.run(it.inputs)
                facts = {
                    "error": it.relative_error(found.run),
                    "latency_s": found.latency_s,
                    "events": list(found.events),
                    "active": [program.rank for program in found.programs if program.steps],
                }
            except Exception as error:  # the campaign counts missing answers
                facts = {"failure": f"{type(error).__name__}: {error}"}
            send({**facts, "workers": len(engine.ranks) - 1, "rss": psutil.Process().memory_info().rss})
        engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:7])
