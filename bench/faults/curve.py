"""The cost of encryption: the rate of large messages between two nodes, with CURVE and without, in turns.

On 1 Gbit/s with a whole core and with a quarter of one, as on a small device; on 100 Mbit/s with a quarter.

A mode that signs without encrypting would save little. Per MB, CURVE's cipher and MAC together take 0.45 ms of a core, a
keyed BLAKE2b of Python's library 1.4 ms, HMAC-SHA-256 0.6 ms; only Poly1305 alone (libsodium, 0.25 ms) would take less,
and the cost of CURVE's copies would remain.
"""

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
from bench.fog.testbed import FogBed
from fogconv.cluster.connect import connect
from fogconv.cluster.protocol.keys import write_keys

PLACES: dict[str, tuple[str, float | None]] = {
    "": ("1gbit", None),
    "_quarter_core": ("1gbit", 0.25),
    "_quarter_core_100mbit": ("100mbit", 0.25),
}
"""Link rate, and share of a core per node."""
MESSAGE_BYTES = 8 << 20
ROUNDS = 10
TURNS = 2


def price(say: Callable[[str], None]) -> dict[str, Any]:
    if os.geteuid():
        say("no network namespaces without root: encryption is not measured")
        return {"throughput_ratio": None}
    rates: dict[str, list[float]] = {f"{kind}{place}": [] for kind in ("plain", "curve") for place in PLACES}
    with tempfile.TemporaryDirectory() as folder, FogBed(2, "1gbit") as bed:
        master, worker = Path(folder, "master"), Path(folder, "worker")
        public = {path: write_keys(path).public for path in (master, worker)}
        (master / "workers").write_text(f"* {public[worker]}\n")
        (worker / "masters").write_text(f"{public[master]}\n")
        address = f"tcp://{bed.nodes[1].address}:{PORT}"
        turns = [(place, kind) for _ in range(TURNS) for place in PLACES for kind in ("plain", "curve")]
        for place, kind in turns:
            rate, share = PLACES[place]
            for node in range(2):
                bed.set_rate(node, rate)
            flags = ["--insecure"] if kind == "plain" else ["--keys", str(worker)]
            bed.set_cpu(share)
            command = worker_command(f"tcp://*:{PORT}", *flags)
            process = bed.popen(1, command, env=environment(), stderr=subprocess.DEVNULL)
            keys = str(master) if kind == "curve" else ""
            argv = [sys.executable, "-m", "bench.faults.curve", address, keys]
            done = bed.popen(0, argv, env=environment(), stdout=subprocess.PIPE, text=True)
            out, _ = done.communicate(timeout=120)
            rates[f"{kind}{place}"] += json.loads(out)
            process.terminate()
            process.wait()
            say(f"{kind} on {rate}, {share or 1} core: {statistics.median(rates[f'{kind}{place}']) / 1e6:.1f} MB/s")
    median = {name: statistics.median(found) for name, found in rates.items()}
    ratios = {f"throughput_ratio{place}": median[f"curve{place}"] / median[f"plain{place}"] for place in PLACES}
    return {**ratios, "bytes_per_s": median}


def main(address: str, keys: str) -> None:
    """In node 0: bytes/s of large messages to the worker and back."""
    folder = Path(keys) if keys else None
    with connect(address, keys=folder, insecure=not keys, connect_timeout_s=60.0) as session:
        session.ping(1, MESSAGE_BYTES)
        trips = [session.ping(1, MESSAGE_BYTES) for _ in range(ROUNDS)]
    print(json.dumps([2 * MESSAGE_BYTES / (trip.there_s + trip.back_s) for trip in trips]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
