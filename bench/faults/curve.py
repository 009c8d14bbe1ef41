"""What encryption costs: the rate of large messages between two nodes on 1 Gbit/s, with CURVE and without, in turns."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.faults.places import PORT, environment, worker_command
from bench.fog.bed import FogBed
from fogconv.cluster.connect import connect
from fogconv.cluster.keys import write_keys

SHARES = (None, 0.25)
"""Of a core per node: as much as there is, and a small device's."""
MESSAGE_BYTES = 8 << 20
ROUNDS = 10
TURNS = 2


def price(say: Callable[[str], None]) -> dict[str, Any]:
    if os.geteuid():
        say("no network namespaces without root: encryption is not measured")
        return {"throughput_ratio": None}
    rates: dict[str, list[float]] = {f"{kind}{share or ''}": [] for kind in ("plain", "curve") for share in SHARES}
    with tempfile.TemporaryDirectory() as folder, FogBed(2, "1gbit") as bed:
        master, worker = Path(folder, "master"), Path(folder, "worker")
        public = {path: write_keys(path).public for path in (master, worker)}
        (master / "workers").write_text(f"* {public[worker]}\n")
        (worker / "masters").write_text(f"{public[master]}\n")
        address = f"tcp://{bed.nodes[1].address}:{PORT}"
        turns = [(share, kind) for _ in range(TURNS) for share in SHARES for kind in ("plain", "curve")]
        for share, kind in turns:
            flags = ["--insecure"] if kind == "plain" else ["--keys", str(worker)]
            bed.set_cpu(share)
            command = worker_command(f"tcp://*:{PORT}", *flags)
            process = bed.popen(1, command, env=environment(), stderr=subprocess.DEVNULL)
            keys = str(master) if kind == "curve" else ""
            argv = [sys.executable, "-m", "bench.faults.curve", address, keys]
            done = bed.popen(0, argv, env=environment(), stdout=subprocess.PIPE, text=True)
            out, _ = done.communicate(timeout=120)
            rates[f"{kind}{share or ''}"] += json.loads(out)
            process.terminate()
            process.wait()
            say(f"{kind} {share}: {statistics.median(rates[f'{kind}{share or str()}']) / 1e6:.1f} MB/s")
    median = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "throughput_ratio": median["curve"] / median["plain"],
        "throughput_ratio_quarter_core": median["curve0.25"] / median["plain0.25"],
        "bytes_per_s": median,
    }


def main(address: str, keys: str) -> None:
    """In node 0: bytes/s of large messages to the worker and back."""
    folder = Path(keys) if keys else None
    with connect(address, keys=folder, insecure=not keys, connect_timeout_s=60.0) as session:
        session.ping(1, MESSAGE_BYTES)
        trips = [session.ping(1, MESSAGE_BYTES) for _ in range(ROUNDS)]
    print(json.dumps([2 * MESSAGE_BYTES / (trip.there_s + trip.back_s) for trip in trips]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
