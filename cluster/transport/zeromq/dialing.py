"""Dialing: a link's way to its connection: which of a name's numbers is tried, and how long heartbeats wait.

ZeroMQ cuts a connection whose heartbeat is not answered in time, so this time has to be longer than the link's round trip.
The handshake takes one and a half round trips at least. If it shows that heartbeats would not wait long enough, the link
connects again, with heartbeats that do, before any message is sent on it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import zmq

from fogconv.hardware.address import Address

log = logging.getLogger("fogconv.transport")

BEAT_SHARE = 0.4
"""Of the heartbeat's time, between two beats; the rest is for the answer. Each beat wakes a thread at either end."""
LONGEST_ROUND_TRIP_S = 5.0
"""A link that takes longer than this is not used: ZeroMQ's handshake ends by then."""
HANDSHAKE_ROUND_TRIPS = 1.5
"""A handshake takes at least so many round trips (with encryption one more)."""
ROUND_TRIPS_PER_WAIT = 2.0
"""A heartbeat's answer may take this many times as long as the round trip, on a slow link."""
MOST_ADAPTATIONS = 3
CONNECT_S = 1.0
"""How long one of several numbers may take to answer, in the first round; in each further round twice as long."""
EVENTS = zmq.EVENT_CONNECTED | zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_HANDSHAKE_SUCCEEDED


def answer_s(heartbeat_s: float, round_trip_s: float = 0.0) -> float:
    """How long to wait for a heartbeat's answer, on a link with this round trip (at most)."""
    return max((1 - BEAT_SHARE) * heartbeat_s, ROUND_TRIPS_PER_WAIT * round_trip_s)


@dataclass(eq=False, slots=True)
class Dial:
    """The way of one DEALER to ``address``. Until ``follow`` says that it is open, nothing may be sent on it.

    ``numbers``: what the address's host stands for; they are tried in turn. ``wait_s``: for a heartbeat's answer.
    """

    raw: zmq.Socket[bytes]
    address: Address
    heartbeat_s: float
    clock: Callable[[], float] = time.monotonic
    numbers: tuple[str, ...] = ()
    wait_s: float = 0.0
    _at: int = 0
    _round: int = 0
    _retries: int = 0
    _adaptations: int = 0
    _since: float = math.nan
    _round_trip_s: float = field(default=math.inf)

    @property
    def number(self) -> str:
        """The number that is tried, or taken; empty before there is one, and for a Unix socket."""
        return self.numbers[self._at] if self.numbers else ""

    def begin(self, numbers: Sequence[str] = ()) -> None:
        """Connect; ``numbers`` is empty for a Unix socket. Raises zmq.ZMQError where the system refuses at once."""
        self.numbers = tuple(numbers)
        self.wait_s = answer_s(self.heartbeat_s)
        self._connect()

    def follow(self, event: int) -> bool:
        """An event of the socket's monitor: whether the link is open now."""
        if event == zmq.EVENT_CONNECTED:
            self._since = self.clock()
        elif event == zmq.EVENT_CONNECT_RETRIED:
            self._retry()
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            return self._judge(self.clock() - self._since)
        return False

    def _retry(self) -> None:
        """One number did not answer: the next one's turn. From the second round on each gets two tries, 0.1 s apart."""
        self._retries += 1
        if len(self.numbers) < 2 or (self._round and self._retries < 2):
            return
        self._disconnect()
        self._retries = 0
        self._at = (self._at + 1) % len(self.numbers)
        self._round += self._at == 0
        self._connect()

    def _judge(self, took_s: float) -> bool:
        # Every measurement is too long where this thread was busy meanwhile; the shortest is nearest.
        self._round_trip_s = min(self._round_trip_s, took_s / HANDSHAKE_ROUND_TRIPS)
        needed_s = answer_s(self.heartbeat_s, self._round_trip_s)
        fits = self.wait_s / 2 <= needed_s <= self.wait_s
        if not fits and self._adaptations < MOST_ADAPTATIONS:
            self._adaptations += 1
            self.wait_s = needed_s
            self._disconnect()
            self._connect()
            return False
        if self.wait_s > answer_s(self.heartbeat_s):
            log.warning(
                "the round trip to %s takes up to %.2g s; heartbeats wait %.2g s",
                self.address,
                self._round_trip_s,
                self.wait_s,
            )
        if self.number != self.address.host:
            log.info("%s is reached at %s, of %s", self.address, self.number, ", ".join(self.numbers))
        return True

    def _connect(self) -> None:
        for option, value in heartbeats(self.heartbeat_s, self.wait_s).items():
            self.raw.setsockopt(option, value)
        if len(self.numbers) > 1:
            self.raw.setsockopt(zmq.CONNECT_TIMEOUT, _ms(CONNECT_S * 2 ** min(self._round, 4)))
        self.raw.setsockopt(zmq.IPV6, int(":" in self.number))
        self.raw.connect(self._target())

    def _disconnect(self) -> None:
        self.raw.disconnect(self._target())

    def _target(self) -> str:
        return str(self.address.at(self.number) if self.number else self.address)


def heartbeats(heartbeat_s: float, wait_s: float) -> dict[int, int]:
    """The options of a DEALER, which decides for both ends: how often it beats, how long it waits for the answer, and after
    how long a silence the other end may think it lost. This silence does not depend on the round trip."""
    silence_ms = _ms(BEAT_SHARE * heartbeat_s + wait_s)
    return {
        zmq.HEARTBEAT_IVL: _ms(BEAT_SHARE * heartbeat_s),
        zmq.HEARTBEAT_TIMEOUT: _ms(wait_s),
        zmq.HEARTBEAT_TTL: 100 * math.ceil(silence_ms / 100),  # ZeroMQ sends tenths of a second
    }


def heartbeats_of_router(heartbeat_s: float) -> dict[int, int]:
    """A ROUTER's own beats wait as long as any link may need: it can't measure its links, and the other ends can."""
    return {
        zmq.HEARTBEAT_IVL: _ms(BEAT_SHARE * heartbeat_s),
        zmq.HEARTBEAT_TIMEOUT: _ms(max(answer_s(heartbeat_s), LONGEST_ROUND_TRIP_S)),
    }


def _ms(seconds: float) -> int:
    return max(1, int(1000 * seconds))
