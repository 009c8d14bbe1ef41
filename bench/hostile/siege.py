"""Siege: real workers under one attack after the other, while an honest master infers."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.faults.places import ROOT, end, environment, free_port, worker_command
from bench.hostile.attacks import Attack, check
from bench.hostile.zmtp import forget_peak, held_bytes, peak_bytes
from fogconv.cluster.protocol.keys import write_keys
from fogconv.errors import ClusterError

MEMORY = "400M"
WORKERS = 2
CALM = 30
"""Inferences before the first attack."""
END_S = 30.0
"""How long an attack may take to end when its time is over."""


@dataclass(frozen=True)
class Outcome:
    """``alive``: all processes are there, and a worker that was attacked serves the next master. ``peak_growth_mb``: of the
    worker that grew most, its peak during the attack over what it held before. ``worst_extra_s``: the slowest inference,
    with a question to all workers, over the median without an attack."""

    name: str
    alive: bool
    peak_growth_mb: float
    honest_ok: bool
    worst_extra_s: float
    inferences: int


class Siege:
    """Two workers of an honest master, and a spare one; used in a ``with`` block, after which nothing is left."""

    def __init__(self, net: str, seconds: float, say: Callable[[str], None], keys: Path | None = None) -> None:
        self._net = net
        self._seconds = seconds
        self._say = say
        self._keys = keys

    def __enter__(self) -> Siege:
        with ExitStack() as stack:
            self._addresses = [f"tcp://127.0.0.1:{free_port()}" for _ in range(WORKERS + 1)]
            more = [] if self._keys is None else ["--keys", str(_worker_keys(self._keys))]
            self._workers = []
            for address in self._addresses:
                command = worker_command(address, "--memory", MEMORY, *more)
                child = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL)
                stack.callback(end, child)
                self._workers.append(child)
            honest = [sys.executable, "-m", "bench.hostile.honest", self._net, ",".join(self._addresses[:WORKERS])]
            if self._keys is not None:
                honest.append(str(_master_keys(self._keys)))
            self._honest = subprocess.Popen(
                honest, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.callback(end, self._honest)
            self._token: str = self._hear()["token"]
            calm = [self._infer() for _ in range(CALM)]
            wrong = [answer for answer in calm if not answer["right"]]
            if wrong:
                raise ClusterError(f"without any attack: {wrong[0]}")
            self._usual = statistics.median(answer["seconds"] for answer in calm)
            self._say(f"without an attack an inference takes {self._usual:.3f} s")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def strike(self, attack: Attack) -> Outcome:
        """One attack on the first worker, or the spare one, from a process of its own."""
        held = {}
        for worker in self._workers:
            forget_peak(worker.pid)
            held[worker.pid] = held_bytes(worker.pid)
        arguments = [attack.name, self._addresses[0], self._addresses[-1], self._token, str(self._seconds)]
        attacker = subprocess.Popen([sys.executable, "-m", "bench.hostile.strike", *arguments], cwd=ROOT, env=environment())
        answers = []
        deadline = time.monotonic() + self._seconds + END_S
        try:
            while attacker.poll() is None and time.monotonic() < deadline:
                answers.append(self._infer("dial" if attack.names else "run"))
        finally:
            end(attacker)
        answers.append(self._infer())
        alive = all(child.poll() is None for child in (*self._workers, self._honest))
        growth = max((peak_bytes(pid) - before for pid, before in held.items()), default=0) if alive else 0
        if alive and self._keys is None:
            alive = check(self._addresses[-1])
        wrong = [answer for answer in answers if not answer["right"]]
        if wrong:
            self._say(f"{attack.name}: {wrong[0]}")
        worst = max(answer["seconds"] for answer in answers)
        return Outcome(attack.name, alive, round(growth / 1e6, 1), not wrong, round(worst - self._usual, 3), len(answers))

    def _infer(self, how: str = "run") -> dict[str, Any]:
        assert self._honest.stdin is not None
        self._honest.stdin.write(f"{how}\n")
        self._honest.stdin.flush()
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        assert self._honest.stdout is not None
        line = self._honest.stdout.readline()
        if not line:
            raise ClusterError(f"the honest master ended with exit code {self._honest.wait()}")
        facts: dict[str, Any] = json.loads(line)
        return facts


def _worker_keys(folder: Path) -> Path:
    """One pair for all workers, who list the one master."""
    if not (folder / "worker").exists():
        worker, master = write_keys(folder / "worker"), write_keys(folder / "master")
        (folder / "worker" / "masters").write_text(f"{master.public}\n")
        (folder / "master" / "workers").write_text(f"* {worker.public}\n")
    return folder / "worker"


def _master_keys(folder: Path) -> Path:
    return folder / "master"
