"""Clocks: the offset of a worker's clock to the master's, by the shortest round trip (Cristian's algorithm)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PING_ROUNDS = 8

Exchange = tuple[int, int, int, int]
"""(sent here, received there, sent there, received here) in ns; the inner two on the other's clock."""


@dataclass(frozen=True, slots=True)
class Offset:
    """The other clock minus this one. Its error is at most ``error_ns``, half of the round trip."""

    offset_ns: int
    error_ns: int


def best_offset(exchanges: Iterable[Exchange]) -> Offset:
    """The offset by the exchange with the shortest round trip."""
    sent, received, answered, back = min(exchanges, key=_round_trip_ns)
    return Offset((received - sent + answered - back) // 2, (_round_trip_ns((sent, received, answered, back)) + 1) // 2)


@dataclass(frozen=True, slots=True)
class PingTimes:
    """Round trips with the payload in one direction only, and the one-way times by the clocks (s)."""

    there_s: float
    back_s: float
    one_way_there_s: float
    one_way_back_s: float

    @staticmethod
    def of(there: Exchange, back: Exchange, offset_ns: int) -> PingTimes:
        return PingTimes(
            _round_trip_ns(there) * 1e-9,
            _round_trip_ns(back) * 1e-9,
            (there[1] - offset_ns - there[0]) * 1e-9,
            (back[3] - (back[2] - offset_ns)) * 1e-9,
        )


def _round_trip_ns(exchange: Exchange) -> int:
    sent, received, answered, back = exchange
    return (back - sent) - (answered - received)
