"""The honest master: one inference per line on standard input, one JSON object each on standard output. For "dial", it
dials a name that no server resolves before.

python -m bench.hostile.honest NET ADDRESS,ADDRESS [KEYS]

Its first line has the session's token, which a real master shows its workers only: so that a peer gone bad can be played.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bench.fog.workload import Subject
from bench.hostile.attacks import SILENT_NAME
from fogconv.cluster.connect import connect
from fogconv.hardware.topology import Topology
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.engine import Engine
from fogconv.runtime.run_options import RunOptions

TOLERANCE = 1e-4


def say(facts: dict[str, Any]) -> None:
    print(json.dumps(facts), flush=True)


def main(net: str, cluster: str, keys: str = "") -> None:
    torch.set_num_threads(1)
    it = Subject(net)
    folder = Path(keys) if keys else None
    with connect(cluster, timeout_s=30.0, connect_timeout_s=90.0, keys=folder, insecure=folder is None) as session:
        # Fixed rates: with measured ones a fast machine keeps everything on the master, and no worker matters.
        topology = Topology.uniform(session.ranks, 2e10, 1.25e8, 1e-4, copy_s_per_byte=3e-10, step_s=2e-5)
        engine = Engine(it.graph, session, topology, PlanOptions("rows", threshold=0.0), RunOptions())
        say({"token": session.token.hex()})
        for number, line in enumerate(sys.stdin):
            if line.split() == ["dial"]:
                session._endpoint.connect(f"tcp://dialed{number}{SILENT_NAME}")
            begin = time.perf_counter()
            try:
                error = it.relative_error(engine.run(it.inputs).run)
                answered = len(session.status())
                right = error <= TOLERANCE and answered == session.ranks - 1 == len(engine.ranks) - 1
                facts: dict[str, Any] = {"right": right, "error": error, "answered": answered}
            except Exception as error:  # a missing answer is what is counted
                facts = {"right": False, "failure": f"{type(error).__name__}: {error}"}
            say({**facts, "seconds": time.perf_counter() - begin})
        engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:4])
