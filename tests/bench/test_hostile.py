"""The hostile bench in small: two attacks of a second each; its table, and the room that it leaves for more."""

from __future__ import annotations

import pytest

from bench.hostile.attacks import ATTACKS
from bench.hostile.siege import Siege
from bench.hostile.zmtp import GREETING, frame, head

pytestmark = pytest.mark.alone

GROWTH_MB = 60


def test_an_honest_master_is_served_under_attack() -> None:
    said: list[str] = []
    chosen = [attack for attack in ATTACKS if attack.name in ("silent connections", "endless multiparts")]
    with Siege("squeezenet1_1", 1.0, said.append) as siege:
        outcomes = [siege.strike(attack) for attack in chosen]
    assert [outcome.name for outcome in outcomes] == [attack.name for attack in chosen]
    for outcome in outcomes:
        assert outcome.alive, said
        assert outcome.honest_ok, said
        assert outcome.peak_growth_mb <= GROWTH_MB
        assert outcome.inferences > 0


def test_attacks_have_names_of_their_own() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len(set(names))


def test_frames_travel_as_zeromq_writes_them() -> None:
    assert len(GREETING) == 64
    assert frame(b"abc") == b"\x00\x03abc"
    assert frame(b"abc", more=True) == b"\x01\x03abc"
    assert head(256) == b"\x02" + (256).to_bytes(8, "big")
    assert head(1 << 20, more=True) == b"\x03" + (1 << 20).to_bytes(8, "big")
