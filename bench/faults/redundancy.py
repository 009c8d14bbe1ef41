"""The cost of coded redundancy without losses, and its gain when a worker is lost in the middle of an inference.

The star over four workers, plain and coded in turns on the same nodes (0.2 core each, where there is a bed). The lost
worker is a stopped one: no connection ends, so that without the code the master waits for the heartbeat first.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from bench.faults.campaign import ASSUMED, Master
from bench.faults.places import Loopback, Place, Testbed

SHARE = 0.2
CALM = 10
LOSSES = 3
PHASES = (0, 1, 0, 1)


def price(say: Callable[[str], None], net: str = "resnet18") -> dict[str, Any]:
    calm: dict[int, list[float]] = {0: [], 1: []}
    struck: dict[int, list[float]] = {0: [], 1: []}
    place: Place = Loopback(4) if os.geteuid() else Testbed(4, flags=["--insecure"])
    with place:
        for phase, redundancy in enumerate(PHASES):
            master = Master(place, net, "star", ASSUMED, json.dumps({"redundancy": redundancy}))
            try:
                place.limit(SHARE)
                latencies = [_infer(master) for _ in range(CALM)]
                calm[redundancy] += latencies[1:]
                if phase >= 2:
                    usual = statistics.median(latencies[1:])
                    for victim in range(LOSSES):
                        struck[redundancy].append(_loss(place, master, victim, usual))
                        place.limit(None)
                        _whole_again(master)
                        place.limit(SHARE)
            finally:
                place.limit(None)
                master.close()
            say(f"redundancy {redundancy}: calm {statistics.median(calm[redundancy]):.3f} s, on a loss {struck[redundancy]}")
    plain, coded = (statistics.median(calm[redundancy]) for redundancy in (0, 1))
    return {
        "cost_pct": 100 * (coded / plain - 1),
        "extra_latency_pct_on_loss": 100 * (statistics.median(struck[1]) / coded - 1),
        "extra_latency_pct_on_loss_without": 100 * (statistics.median(struck[0]) / plain - 1),
        "plain_s": plain,
        "coded_s": coded,
    }


def _infer(master: Master) -> float:
    master.ask()
    answer = master.receive()
    if answer.get("error", 1.0) > 1e-4:
        raise RuntimeError(f"a wrong answer: {answer}")
    return float(answer["latency_s"])


def _loss(place: Place, master: Master, victim: int, usual: float) -> float:
    """The latency of an inference in the middle of which a worker is stopped."""
    process = place.workers[victim]
    timer = threading.Timer(usual / 2, process.send_signal, [signal.SIGSTOP])
    timer.start()
    try:
        return _infer(master)
    finally:
        timer.join()
        time.sleep(1.5)
        process.send_signal(signal.SIGCONT)


def _whole_again(master: Master, timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        master.ask()
        if master.receive().get("workers") == 4:
            break
        time.sleep(0.2)
    _infer(master)
