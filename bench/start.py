"""Start-up: from the command to the first answer, against torch alone, in turns.

    python -m bench.start [--net resnet50] [--rounds 5] [--json]

Each start is a separate process, with warm caches. `fogconv run NET` has workers in its own process: once as it starts
when the model was run before ("later"), and once without the cache of graphs, so that torch exports the model ("first").
torch alone is `bench.start_torch`, with the same seeded weights and the same picture. The first answer is the best guess
on stdout. Also: from a worker's start until it answers `fogconv status`, and the whole of `fogconv --help`. Seconds are
medians over the rounds; CPU seconds, of all threads until then, are more reliable where other programs run on the
machine.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from fogconv.cli.commands.status import Watcher

TARGET = {"first": 1.3, "later": 0.5, "worker_s": 1.0}
"""Of the time that torch takes; seconds."""
ANSWERED = "idle"
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Start:
    """The time from the command to the sign, and the CPU time of all threads by then."""

    seconds: float
    cpu_s: float


def first_line_with(sign: str, command: Sequence[str], graphs: str = "") -> Start:
    """Run a program until its end; when a line with ``sign`` came. ``graphs``: "off" for no cache of graphs. Raises
    RuntimeError where there was no such line."""
    begin = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "FOGCONV_GRAPH_CACHE": graphs},
    ) as process:
        assert process.stdout is not None
        found = None
        for line in process.stdout:
            if found is None and sign in line:
                seconds = time.perf_counter() - begin
                times = psutil.Process(process.pid).cpu_times()
                found = Start(seconds, times.user + times.system)
    if found is None or process.returncode:
        raise RuntimeError(f"{' '.join(command)} printed no {sign!r}, or failed ({process.returncode})")
    return found


def best_guess(net: str) -> str:
    """torch's best guess for the picture."""
    done = subprocess.run([sys.executable, *torch_alone(net)], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0].split(maxsplit=1)[1]


def torch_alone(net: str) -> list[str]:
    return ["-m", "bench.start_torch", net]


def fogconv(net: str) -> list[str]:
    return ["-m", "fogconv", "run", net, "--weights", "random"]


def worker() -> Start:
    """The time from a worker's start until it answers a status query."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    begin = time.perf_counter()
    command = [sys.executable, "-m", "fogconv", "worker", "--bind", address]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        watcher = Watcher({address: 1.0})
        try:
            while watcher.ask(0.05)[0].state != ANSWERED:
                if time.perf_counter() - begin > PATIENCE_S or process.poll() is not None:
                    raise RuntimeError("the worker does not answer")
            seconds = time.perf_counter() - begin
            times = psutil.Process(process.pid).cpu_times()
        finally:
            watcher.close()
            process.terminate()
    return Start(seconds, times.user + times.system)


def middle(starts: Sequence[Start]) -> dict[str, float]:
    return {
        "seconds": statistics.median(start.seconds for start in starts),
        "cpu_s": statistics.median(start.cpu_s for start in starts),
    }


def measure(net: str, rounds: int) -> dict[str, Any]:
    sign = best_guess(net)
    first_line_with(sign, fogconv(net))  # the caches
    found: dict[str, list[Start]] = {"torch": [], "first": [], "later": [], "worker": [], "help": []}
    for _ in range(rounds):
        found["torch"].append(first_line_with(sign, torch_alone(net)))
        found["first"].append(first_line_with(sign, fogconv(net), "off"))
        found["later"].append(first_line_with(sign, fogconv(net)))
        found["worker"].append(worker())
        found["help"].append(first_line_with("doctor", ["-m", "fogconv", "--help"]))
    ratios = {
        name: {
            "ratio": statistics.median(ours.seconds / theirs.seconds for ours, theirs in pairs),
            "cpu_ratio": statistics.median(ours.cpu_s / theirs.cpu_s for ours, theirs in pairs),
        }
        for name, pairs in ((name, list(zip(found[name], found["torch"], strict=True))) for name in ("first", "later"))
    }
    return {
        "net": net,
        "rounds": rounds,
        "target": TARGET,
        **{name: middle(starts) | ratios.get(name, {}) for name, starts in found.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="resnet50")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    found = measure(options.net, options.rounds)
    if options.json:
        print(json.dumps(found))
        return
    for name in ("torch", "first", "later", "worker", "help"):
        row = found[name]
        ratio = f", {row['ratio']:.2f} and {row['cpu_ratio']:.2f} times torch's" if "ratio" in row else ""
        print(f"{name:8}{row['seconds']:6.2f} s, {row['cpu_s']:5.2f} s of CPU{ratio}")


if __name__ == "__main__":
    main()
