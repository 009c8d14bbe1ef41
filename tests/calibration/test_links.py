"""The price of a message is the processor's time for it, and not for waiting as long as it takes."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from fogconv.calibration import links
from fogconv.calibration.links import message_costs

MESSAGE_S, SEND_S, RECEIVE_S = 50e-6, 2e-9, 3e-9
WIRE_S_PER_BYTE = 8e-8
"""100 Mbit/s."""
POLLS_S = 0.03
"""The processor seconds that a second of waiting takes, where the transport is polled."""


@dataclass
class Clock:
    """The time module of a rank that does nothing else."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    def monotonic(self) -> float:
        return self.wall_s

    def process_time(self) -> float:
        return self.cpu_s

    def spend(self, wall_s: float, cpu_s: float) -> None:
        self.wall_s += wall_s
        self.cpu_s += cpu_s


@dataclass
class Worker:
    rank: int = 1


@dataclass
class Polled:
    """A session whose transport is polled while it waits."""

    clock: Clock
    polls_s: float
    workers: list[Worker] = field(default_factory=lambda: [Worker()])
    walked: bool = False

    def ping(self, rank: int, nbytes: int = 0, back_bytes: int | None = None) -> links.RoundTrips:
        back = nbytes if back_bytes is None else back_bytes
        wire_s = 4 * 150e-6 + (nbytes + back) * WIRE_S_PER_BYTE
        own_s = 4 * MESSAGE_S + nbytes * SEND_S + back * RECEIVE_S
        self.clock.spend(wire_s + own_s, own_s + wire_s * self.polls_s)
        return Trip(wire_s / 2, wire_s / 2)

    def idle(self, seconds: float) -> None:
        self.clock.spend(seconds, seconds * self.polls_s)


@dataclass(frozen=True)
class Trip:
    there_s: float
    back_s: float


@pytest.mark.parametrize("polls_s", [0.0, POLLS_S])
def test_polling_while_a_message_is_on_its_way_is_no_part_of_its_price(
    polls_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(links, "time", clock)
    found = message_costs(Polled(clock, polls_s))
    assert found.message_s == pytest.approx(MESSAGE_S, rel=0.05)
    assert found.send_s_per_byte == pytest.approx(SEND_S, rel=0.05)
    assert found.receive_s_per_byte == pytest.approx(RECEIVE_S, rel=0.05)
    assert POLLS_S * WIRE_S_PER_BYTE > SEND_S, "what polls would have added to each byte"


def test_messages_of_compiled_code_cost_less_than_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(links, "time", clock)
    found = message_costs(Polled(clock, 0.0, walked=True))
    assert found.message_s == pytest.approx(links.WALKED * MESSAGE_S, rel=0.05)
    assert found.send_s_per_byte == pytest.approx(SEND_S, rel=0.05)


def test_alone_no_message_has_a_price() -> None:
    assert message_costs(Polled(Clock(), 0.0, [])).message_s == 0.0
