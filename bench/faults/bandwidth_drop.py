"""A link that becomes ten times slower in mid-stream: the inferences until the engine notices, and the latency of the new
plan. And after its recovery: the time until its worker has work again.

In an emulated cluster (root), because only its links have a rate. The nodes have 0.1 core each on 100 Mbit/s, where
distribution pays and messages take much of the time; on 1 Gbit/s such slow nodes hardly wait for the wire, even at a
tenth of the rate.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from bench.faults.campaign import Master
from bench.faults.places import Testbed
from bench.fog.shaping import Rate

RATE, THIN = "100mbit", "10mbit"
SHARE = 0.1
CORE_FLOP_PER_S = 6e10
"""The rate that the plan assumes for a whole core."""
CALM = 6
MOST = 8
PATIENCE_S = 60.0


def drop(say: Callable[[str], None], net: str = "resnet18", scheme: str = "rows") -> dict[str, Any]:
    """The link is that of the last worker of the plan; ``reported`` are the events about it."""
    with Testbed(4, RATE, ["--insecure"]) as bed:
        master = Master(bed, net, scheme, f"{SHARE * CORE_FLOP_PER_S:g},{Rate.parse(RATE).bytes_per_s:g}", mode="adapt")
        try:
            bed.limit(SHARE)
            before = [_infer(master) for _ in range(CALM)]
            victim = before[-1]["active"][-1]
            if victim == 0:
                raise RuntimeError("the plan keeps everything on the master: there is no link to slow down")
            bed.thin(victim - 1, THIN)
            during: list[float] = []
            reported: list[str] = []
            while len(during) < MOST and not reported:
                answer = _infer(master)
                reported = [
                    event for event in answer["events"] if event.startswith("the link") and f"rank {victim}" in event
                ]
                during.append(answer["latency_s"])
            after = [_infer(master) for _ in range(CALM)]
            left_out = victim not in after[-1]["active"]
            bed.thin(victim - 1, RATE)
            begin, restored_s = time.monotonic(), None
            while restored_s is None and time.monotonic() - begin < PATIENCE_S:
                if victim in _infer(master)["active"]:
                    restored_s = time.monotonic() - begin
            whole = [_infer(master) for _ in range(CALM)]
        finally:
            bed.limit(None)
            master.close()
    # The plan is made between two inferences; the second one reports it.
    noticed = len(during) - 1 if reported else None
    result = {
        "inferences_until_replanned": noticed,
        "before_s": statistics.median(answer["latency_s"] for answer in before[1:]),
        "thin_s": statistics.median(during[:noticed] or during),
        "replanned_s": statistics.median(answer["latency_s"] for answer in after),
        "reported": reported,
        "left_out": left_out,
        "restored_after_s": restored_s,
        "restored_s": statistics.median(answer["latency_s"] for answer in whole),
    }
    say(f"a link at {THIN} instead of {RATE}: {result}")
    return result


def _infer(master: Master) -> dict[str, Any]:
    master.ask()
    answer = master.receive()
    if answer.get("error", 1.0) > 1e-4:
        raise RuntimeError(f"a wrong answer: {answer}")
    return answer
