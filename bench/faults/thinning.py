"""A link that drops tenfold in mid-stream: after how many inferences the engine has noticed, and what the new plan takes.

In a bed (root), since only there a link has a rate. The nodes have 0.35 core each and start on 100 Mbit/s.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from bench.faults.campaign import Master
from bench.faults.places import Bed

RATE, THIN = "100mbit", "10mbit"
SHARE = 0.35
CALM = 6
MOST = 8
VICTIM = 3


def drop(say: Callable[[str], None], net: str = "resnet18", scheme: str = "auto") -> dict[str, Any]:
    """The worker behind the link takes part before; ``told`` is what the output says of it."""
    with Bed(4, RATE, ["--insecure"]) as bed:
        bed.limit(SHARE)
        master = Master(bed, net, scheme, "measured", adapt=True)
        try:
            before = [_infer(master) for _ in range(CALM)]
            bed.thin(VICTIM - 1, THIN)
            during: list[float] = []
            told: list[str] = []
            while len(during) < MOST and not told:
                latency_s, events = _infer(master)
                told = [event for event in events if event.startswith("the link") and f"rank {VICTIM}" in event]
                during.append(latency_s)
            after = [_infer(master)[0] for _ in range(CALM)]
        finally:
            bed.limit(None)
            master.close()
    # The plan is made between two inferences, and told by the second.
    noticed = len(during) - 1 if told else None
    result = {
        "inferences_until_replanned": noticed,
        "before_s": statistics.median(latency_s for latency_s, _ in before[1:]),
        "thin_s": statistics.median(during[:noticed] or during),
        "replanned_s": statistics.median(after),
        "told": told,
    }
    say(f"a link at {THIN} instead of {RATE}: {result}")
    return result


def _infer(master: Master) -> tuple[float, list[str]]:
    master.ask()
    answer = master.hear()
    if answer.get("error", 1.0) > 1e-4:
        raise RuntimeError(f"a wrong answer: {answer}")
    return float(answer["latency_s"]), list(answer["events"])
