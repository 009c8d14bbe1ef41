"""The fault bench in small: real worker processes, killed, stopped and cut off; a siege of a thousand messages."""

from __future__ import annotations

import random

import pytest

from bench.faults.campaign import TOLERANCE, Campaign, Found, Master
from bench.faults.fuzz_load import fuzz_load
from bench.faults.malformed import KINDS, nonsense
from bench.faults.places import Loopback
from fogconv.cluster.protocol import codec
from fogconv.errors import WireError

pytestmark = pytest.mark.alone

NET = "squeezenet1_1"


def test_a_campaign_in_small_loses_no_answer() -> None:
    """Every kind once, behind relays: no root needed. The times are the bench's business."""
    said: list[str] = []
    with Loopback(3) as place:
        master = Master(place, NET, "rows")
        try:
            found = Campaign(place, inferences=12, faults=3, seed=3, say=said.append).run(master)
        finally:
            master.close()
    summary = found.summary()
    assert summary["events"] == {"killed": 1, "stopped": 1, "cut off": 1}
    assert summary["right"] == 12 and summary["missing"] == 0, summary
    assert summary["reported"] >= 1


def test_a_siege_in_small_crashes_nobody() -> None:
    siege = fuzz_load(1000, NET, lambda line: None, half=50)
    assert siege.crashes == 0
    assert siege.sent >= 1000
    assert siege.inferences >= 20


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.__name__))
def test_nonsense_of_every_kind_decodes_or_is_a_wire_error(kind: object) -> None:
    generator = random.Random(5)
    for _ in range(50):
        frames = kind(generator)  # type: ignore[operator]
        try:
            codec.decode(frames)
        except WireError:
            continue


def test_replays_come_up() -> None:
    generator, replay = random.Random(5), [b"once more"]
    assert sum(nonsense(generator, replays=[replay]) == replay for _ in range(500)) > 20


def test_a_summary_counts_what_is_wrong_and_what_is_missing() -> None:
    right = {"error": TOLERANCE / 2, "latency_s": 1.0, "events": [], "rss": 100}
    wrong = {**right, "error": 10 * TOLERANCE, "latency_s": 3.5, "events": ["worker 1 is lost"], "rss": 110}
    summary = Found([right, right, wrong, {"failure": "no message", "rss": 120}]).summary()
    assert (summary["inferences"], summary["right"], summary["missing"]) == (4, 2, 1)
    assert summary["worst_extra_latency_s"] == 2.5
    assert summary["memory_growth_pct"] == pytest.approx(20.0)
