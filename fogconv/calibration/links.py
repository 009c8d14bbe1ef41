"""Pings: the measured links of a session, and the processor time of a message.

α   half of the shortest round trip of an empty message
β   (round trip with the payload − round trip without it) ÷ its elements, for each direction
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fogconv.hardware.profile import ProfileLink
from fogconv.ir.geometry import BYTES_PER_ELEMENT

LEAST_S_PER_BYTE = 1e-11
"""No medium takes less: what is quicker was handed over in memory, and β is what copying there takes, or this."""
PROBE_S = 0.02
"""A payload that takes this long measures β well above the jitter of a round trip."""
LEAST_PROBE_BYTES = 64 << 10
LARGEST_PROBE_BYTES = 16 << 20
SHORTER = 32
"""The shorter payload is smaller by this factor and takes a few ms: much more than a shaper's burst, little enough for
the burst to be visible."""
MESSAGES_PER_PING = 4
"""Two exchanges, each a message there and one back; each end sends and receives one message per exchange."""
COLD_BYTES = 32 << 20
"""Bytes copied before a ping whose processor time is measured: in a run there are convs between two messages, and they
displace everything else from the caches, the last level included. A message then takes up to four times as long as one
right after another: 24 µs, 49 after 4 MB were copied, 110 after 64 MB (32 MB of last-level cache)."""
SHORTEST_WAIT_S = 10e-6
COST_ROUNDS, COST_S, COST_BYTES = 4, 1.5, 120 << 10
"""The least number of rounds, the time for which more are made (at 10 Mbit that is 2 s), and a payload that takes the same
way as an empty message: a direct connection of ZeroMQ's transport takes no more than 128 KB."""


class RoundTrips(Protocol):
    """A session's ping: round trips with the payload in one direction only."""

    @property
    def there_s(self) -> float: ...
    @property
    def back_s(self) -> float: ...


class Peer(Protocol):
    """A worker's number in its session."""

    @property
    def rank(self) -> int: ...


class Session(Protocol):
    """The part of `fogconv.cluster.session.session.Session` that is used here."""

    @property
    def workers(self) -> Sequence[Peer]: ...
    @property
    def walked(self) -> bool: ...
    def ping(self, rank: int, nbytes: int = 0, back_bytes: int | None = None) -> RoundTrips: ...
    def idle(self, seconds: float) -> None: ...


WALKED = 0.7
"""What a message from compiled code costs, over one from Python: 0.62 to 0.8 in four of six pairs of
`python -m bench.message_floor` from cold caches, 1.04 in two. With 1 five nodes of 0.1 core were predicted to take 1.03 to
1.3 times what they took."""


@dataclass(frozen=True, slots=True)
class MessageCosts:
    """Processor seconds: per message, sent or received, and per byte, sent and received."""

    message_s: float
    send_s_per_byte: float
    receive_s_per_byte: float

    def scaled(self, slower: float) -> MessageCosts:
        return MessageCosts(self.message_s * slower, self.send_s_per_byte * slower, self.receive_s_per_byte * slower)


def message_costs(session: Session) -> MessageCosts:
    """The master's processor time for messages, all threads, measured by empty pings and by pings with some bytes there
    or back, each from cold caches; zero where there is no peer.

    Pings are sent from Python. Where compiled code sends a run's messages (``walked``) they cost the share WALKED of that.
    What the transport spends while it waits as long for nothing is not counted: MPI is polled, the more often the longer a
    message takes, and in a run nothing waits for that time.
    """
    if not session.workers:
        return MessageCosts(0.0, 0.0, 0.0)
    rank = session.workers[0].rank

    source, target = np.ones(COLD_BYTES, np.uint8), np.zeros(COLD_BYTES, np.uint8)

    def spent(nbytes: int, back_bytes: int) -> float:
        np.copyto(target, source)
        begin, started = time.process_time(), time.monotonic()
        session.ping(rank, nbytes, back_bytes)
        used, took_s = time.process_time() - begin, time.monotonic() - started
        # There and back, each of them a wait; the shortest one is what it costs to begin to wait.
        return max(0.0, used - 2 * max(0.0, waiting((took_s - used) / 2) - waiting(SHORTEST_WAIT_S)))

    def waiting(seconds: float) -> float:
        begin = time.process_time()
        session.idle(seconds)
        return time.process_time() - begin

    # In turns, because the speed of a shared core drifts; the first round opens TCP's window.
    kinds = ((0, 0), (COST_BYTES, 0), (0, COST_BYTES))
    rounds: list[list[float]] = []
    until = time.monotonic() + COST_S
    while len(rounds) <= COST_ROUNDS or time.monotonic() < until:
        rounds.append([spent(*kind) for kind in kinds])
    empty, sent, received = (statistics.median(found) for found in zip(*rounds[1:], strict=True))
    return MessageCosts(
        empty / MESSAGES_PER_PING * (WALKED if session.walked else 1.0),
        max(0.0, sent - empty) / COST_BYTES,
        max(0.0, received - empty) / COST_BYTES,
    )


def measure_link(
    session: Session, rank: int, *, rounds: int, probe_s: float = PROBE_S, least_s_per_byte: float = LEAST_S_PER_BYTE
) -> tuple[ProfileLink[int], ProfileLink[int], dict[str, float]]:
    """α and β to a worker and back, with their spreads, and the burst of a shaper.

    β is the slope between two payloads, of which the larger takes ``probe_s`` at least: switches and shapers let the
    first bytes of a burst pass at a higher rate, which would count as bandwidth. The size of the burst follows from a
    short payload, by how much faster it is than that slope. β is at least
    ``least_s_per_byte``, for example the rate of a copy in memory: between threads of a process a payload takes no time,
    and the slope is noise.
    """
    empty = [session.ping(rank) for _ in range(rounds)]
    large = _probe_bytes(session, rank, min(trip.there_s + trip.back_s for trip in empty) / 2, probe_s)
    small = large // 4
    pairs = [(session.ping(rank, small), session.ping(rank, large)) for _ in range(max(2, rounds // 3))]
    there = [max((more.there_s - less.there_s) / (large - small), least_s_per_byte) for less, more in pairs]
    back = [max((more.back_s - less.back_s) / (large - small), least_s_per_byte) for less, more in pairs]
    shorts = [session.ping(rank, large // SHORTER) for _ in range(max(2, rounds // 3))]
    alphas = [(trip.there_s + trip.back_s) / 4 for trip in empty]
    spreads = {
        f"alpha 0↔{rank}": spread(alphas),
        f"beta 0→{rank}": spread(there),
        f"beta {rank}→0": spread(back),
    }
    alpha, beta_there, beta_back = (statistics.median(found) for found in (alphas, there, back))
    burst_there = _burst_bytes(
        [trip.there_s for trip in shorts], [trip.there_s for trip in empty], large // SHORTER, beta_there
    )
    burst_back = _burst_bytes([trip.back_s for trip in shorts], [trip.back_s for trip in empty], large // SHORTER, beta_back)
    return (
        ProfileLink(0, rank, alpha, beta_there * BYTES_PER_ELEMENT, burst_bytes=burst_there),
        ProfileLink(rank, 0, alpha, beta_back * BYTES_PER_ELEMENT, burst_bytes=burst_back),
        spreads,
    )


def _burst_bytes(shorts: Sequence[float], empty: Sequence[float], n_bytes: int, s_per_byte: float) -> float:
    """How much faster a payload of ``n_bytes`` passes than at the link's rate, in bytes; at most all of it."""
    taken_s = statistics.median(shorts) - statistics.median(empty)
    return float(min(max(0.0, n_bytes - taken_s / s_per_byte), n_bytes))


def _probe_bytes(session: Session, rank: int, idle_s: float, probe_s: float) -> int:
    """A payload that takes about ``probe_s``, found by quadrupling; the first ones also open TCP's window."""
    n_bytes = LEAST_PROBE_BYTES
    while n_bytes < LARGEST_PROBE_BYTES:
        trip = session.ping(rank, n_bytes)
        if min(trip.there_s, trip.back_s) - idle_s > probe_s:
            break
        n_bytes *= 4
    return n_bytes


def spread(values: Sequence[float]) -> float:
    """(Third quartile − first) ÷ median."""
    if len(values) < 2:
        return 0.0
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return (third - first) / median if median else 0.0
