"""Campaign: inferences one after the other while workers are killed, stopped and disconnected, and come back."""

from __future__ import annotations

import json
import random
import signal
import statistics
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.faults.places import Place
from fogconv.errors import ClusterError

KINDS = ("killed", "stopped", "cut off")
ASSUMED = "2e10,1.25e8"
"""FLOP/s and bytes/s, for reproducible plans: with measured rates a machine with fast cores keeps everything on the
master, and losses do not matter."""
TOLERANCE = 1e-4
AWAY_S = (1.2, 2.5)
"""The time that a worker stays stopped or disconnected: longer than its detection takes."""
START_S = 2.0
"""The least time until a new process is back."""
LEAST_WORKERS = 3
"""A fault waits for so many workers, so that the plans differ and not all use the master alone."""
PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault: applied ``delay_s`` after inference ``number`` was requested."""

    number: int
    kind: str
    worker: int


@dataclass
class Found:
    """One dict per inference, as reported by the master, and the faults."""

    answers: list[dict[str, Any]] = field(default_factory=list)
    blows: list[Blow] = field(default_factory=list)

    @property
    def hit(self) -> set[int]:
        """The inferences in which a worker was lost, found missing or rejoined."""
        return {number for number, answer in enumerate(self.answers) if answer.get("events")}

    def summary(self) -> dict[str, Any]:
        latencies = [answer.get("latency_s") for answer in self.answers]
        calm = [s for number, s in enumerate(latencies) if s is not None and number not in self.hit]
        struck = [s for number, s in enumerate(latencies) if s is not None and number in self.hit]
        median = statistics.median(calm) if calm else 0.0
        rss = [answer["rss"] for answer in self.answers]
        first = min(50, len(rss) // 4)
        return {
            "inferences": len(self.answers),
            "right": sum(1 for answer in self.answers if answer.get("error", 1.0) <= TOLERANCE),
            "missing": sum(1 for answer in self.answers if "failure" in answer),
            "failures": [answer["failure"] for answer in self.answers if "failure" in answer],
            "events": dict(Counter(blow.kind for blow in self.blows)),
            "reported": sum(len(answer.get("events", ())) for answer in self.answers),
            "median_latency_s": median,
            "worst_extra_latency_s": max(struck, default=median) - median,
            "hit": len(struck),
            "memory_growth_pct": 100.0 * (rss[-1] / rss[first] - 1) if rss else 0.0,
            "memory_mb": [value / 1e6 for value in rss[:: max(1, len(rss) // 8)]],
            "worst_error": max((answer.get("error", 0.0) for answer in self.answers), default=0.0),
        }


class Master:
    """The process of bench.faults.master."""

    def __init__(
        self,
        place: Place,
        net: str,
        scheme: str,
        rates: str = ASSUMED,
        protection: str = "{}",
        *,
        mode: str = "",
    ) -> None:
        arguments = ["-m", "bench.faults.master", net, scheme, ",".join(place.addresses), rates, protection, mode]
        self.process = place.master(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.receive()

    def ask(self) -> None:
        self.process.stdin.write("run\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]

    def receive(self) -> dict[str, Any]:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise ClusterError(f"the campaign's master ended with exit code {self.process.wait()}")
        facts: dict[str, Any] = json.loads(line)
        return facts

    def close(self) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        try:
            self.process.wait(20.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Campaign:
    """``run`` returns the results. Faults are drawn from ``seed``; each occurs at a random moment of an inference."""

    def __init__(self, place: Place, inferences: int, faults: int, seed: int, say: Callable[[str], None]) -> None:
        self._place = place
        self._inferences = inferences
        self._random = random.Random(seed)
        # All kinds in turn, so that none is rare.
        self._kinds = [KINDS[number % len(KINDS)] for number in range(faults)]
        self._random.shuffle(self._kinds)
        self._say = say
        self._busy: dict[int, threading.Timer] = {}
        self._lock = threading.Lock()

    def run(self, master: Master) -> Found:
        found = Found()
        due = sorted(self._random.sample(range(2, self._inferences), len(self._kinds)))
        usual = 0.1
        try:
            for number in range(self._inferences):
                timer = None
                if due and number == due[0]:
                    due.pop(0)
                    self._wait_for_workers()
                    blow = Blow(number, self._kinds.pop(), self._victim())
                    found.blows.append(blow)
                    timer = threading.Timer(self._random.uniform(0.0, usual), self._strike, [blow])
                    timer.start()
                master.ask()
                answer = master.receive()
                if timer is not None:
                    timer.join()
                found.answers.append(answer)
                if answer.get("latency_s") and not answer["events"]:
                    usual = answer["latency_s"]
                if answer.get("events") or "failure" in answer:
                    self._say(f"{number}: {answer.get('latency_s', 0):.2f} s {answer.get('events', answer.get('failure'))}")
        finally:
            with self._lock:
                waiting = list(self._busy.values())
            for timer in waiting:
                timer.join()
        return found

    def _victim(self) -> int:
        with self._lock:
            return self._random.choice([w for w in range(len(self._place.workers)) if w not in self._busy])

    def _wait_for_workers(self) -> None:
        """Pause the inferences until enough workers are present."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with self._lock:
                if len(self._place.workers) - len(self._busy) >= LEAST_WORKERS:
                    return
            time.sleep(0.05)

    def _strike(self, blow: Blow) -> None:
        process = self._place.workers[blow.worker]
        match blow.kind:
            case "killed":
                process.kill()
            case "stopped":
                process.send_signal(signal.SIGSTOP)
            case _:
                self._place.cut(blow.worker)
        timer = threading.Timer(self._random.uniform(*AWAY_S), self._mend, [blow])
        with self._lock:
            self._busy[blow.worker] = timer
        timer.start()

    def _mend(self, blow: Blow) -> None:
        match blow.kind:
            case "killed":
                self._place.start(blow.worker)
                time.sleep(START_S)
            case "stopped":
                self._place.workers[blow.worker].send_signal(signal.SIGCONT)
            case _:
                self._place.heal(blow.worker)
        with self._lock:
            del self._busy[blow.worker]
