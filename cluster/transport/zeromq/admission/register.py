"""Register: the connections of a bound socket: from where, since when, how many bytes. A table, without system calls.

    stranger   connected, but not trusted by the worker yet. It may owe STRANGER_BYTES: the bytes received from it, less the
               messages that were read. So a message that never ends, or never starts, costs that much and no more.
    admitted   trusted by the worker. It may send what the memory limit leaves room for; a message that never ends does
               not count as read

Strangers are bounded per address and in all. If there are too many, the oldest is dropped: an honest peer is admitted
within a moment, and an attacker's connections stay open the longest.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

STRANGER_BYTES = 32 << 10
"""What a connection that is not admitted may owe."""
STRANGERS_BYTES = 8 << 20
"""What all of them may owe together."""
STRANGERS_PER_ADDRESS = 128
STRANGERS = 256
CONNECTIONS = 4096
"""With the admitted ones."""

PENDING_BYTES = 64 << 20
"""With so many bytes that no message has come of, an admitted one goes if memory is short."""

_FRAME_BYTES = 64
"""What ZeroMQ and CURVE put around a frame, at most."""
_BEAT_BYTES_PER_S = 1024
"""Heartbeats between two messages. An honest watcher's take 54 bytes a second."""
_MOST_BEAT_S = 16.0


@dataclass(frozen=True, slots=True)
class Limits:
    """See the constants of the same names."""

    stranger_bytes: int = STRANGER_BYTES
    strangers_bytes: int = STRANGERS_BYTES
    strangers_per_address: int = STRANGERS_PER_ADDRESS
    strangers: int = STRANGERS
    connections: int = CONNECTIONS

    @staticmethod
    def within(descriptors: int) -> Limits:
        """For a process that may open so many descriptors, and needs half of them for other things."""
        strangers, connections = min(STRANGERS, descriptors // 4), min(CONNECTIONS, descriptors // 2)
        return Limits(
            strangers=strangers,
            strangers_per_address=min(STRANGERS_PER_ADDRESS, descriptors // 8),
            connections=connections,
        )


@dataclass(slots=True)
class Account:
    """Of an admitted one: whether a message of it was read since it was last looked at."""

    spoke: bool = False


@dataclass(eq=False, slots=True)
class Visitor:
    """A connection: its descriptor, what tells it from others that have had that number, and where it comes from."""

    fd: int
    identity: bytes
    origin: str
    since: float
    """Seconds of any one clock."""
    received: int = 0
    settled: int = 0
    """Of the bytes received, those of messages that were read."""
    admitted: Account | None = None
    leaving: bool = False
    """It was shown out, and its end is on its way."""

    @property
    def owed(self) -> int:
        return self.received - self.settled


class Register:
    """The table. Not locked. Methods that return visitors name those who have to leave now."""

    def __init__(self, limits: Limits = Limits()) -> None:
        self._limits = limits
        self._visitors: dict[int, Visitor] = {}
        self._early: dict[bytes, Account] = {}
        """Those that were admitted before their arrival was known here, by identity."""

    def __len__(self) -> int:
        return len(self._visitors)

    @property
    def strangers(self) -> list[Visitor]:
        """The longest here first."""
        return [visitor for visitor in self._visitors.values() if not visitor.admitted and not visitor.leaving]

    @property
    def admitted(self) -> list[Visitor]:
        return [visitor for visitor in self._visitors.values() if visitor.admitted and not visitor.leaving]

    def get(self, fd: int) -> Visitor | None:
        return self._visitors.get(fd)

    def arrive(self, visitor: Visitor) -> list[Visitor]:
        """A connection was accepted. One that is here already was found under the report of an earlier one."""
        known = self._visitors.pop(visitor.fd, None)
        if known is not None and known.identity == visitor.identity:
            self._visitors[visitor.fd] = known
            return []
        self._visitors[visitor.fd] = visitor
        visitor.admitted = self._early.pop(visitor.identity, None)
        out = []
        if len(self._visitors) > self._limits.connections:
            out.append(visitor)
        strangers = self.strangers
        near = [stranger for stranger in strangers if stranger.origin == visitor.origin]
        if len(near) > self._limits.strangers_per_address:
            out.append(near[0])
        elif len(strangers) > self._limits.strangers:
            out.append(strangers[0])
        return self._leave(out)

    def leave(self, fd: int) -> None:
        """The connection that is known under this descriptor ended."""
        self._visitors.pop(fd, None)

    def admit(self, fd: int, identity: bytes, account: Account) -> None:
        """It is trusted. Its first message may be read before its arrival is known here."""
        visitor = self._visitors.get(fd)
        if visitor is not None and visitor.identity == identity:
            visitor.admitted = account
            visitor.settled = visitor.received
            return
        self._early[identity] = account
        if len(self._early) > self._limits.connections:  # some ended before their arrival was known
            del self._early[next(iter(self._early))]

    def dismiss(self, fd: int, identity: bytes, received: int) -> None:
        """It is a stranger again, and owes nothing of the ``received`` bytes that came so far."""
        self._early.pop(identity, None)
        visitor = self._visitors.get(fd)
        if visitor is not None and visitor.identity == identity:
            visitor.admitted = None
            visitor.received = visitor.settled = received

    def settle(self, fd: int, frames: int, nbytes: int, now: float) -> None:
        """A message of a stranger was read: so many frames of so many bytes together."""
        visitor = self._visitors.get(fd)
        if visitor is not None:
            beats = _BEAT_BYTES_PER_S * min(_MOST_BEAT_S, max(0.0, now - visitor.since))
            visitor.settled += nbytes + _FRAME_BYTES * frames + int(beats)
            visitor.since = now

    def measure(self, fd: int, received: int) -> list[Visitor]:
        """So many bytes have come over a connection by now."""
        visitor = self._visitors.get(fd)
        if visitor is None or visitor.admitted or visitor.leaving:
            return []
        visitor.received = max(visitor.received, received)
        visitor.settled = min(visitor.settled, visitor.received)
        if visitor.owed > self._limits.stranger_bytes:
            return self._leave([visitor])
        strangers = self.strangers
        if sum(stranger.owed for stranger in strangers) > self._limits.strangers_bytes:
            return self._leave([max(strangers, key=lambda stranger: stranger.owed)])
        return []

    def measure_admitted(self, fd: int, received: int, has_room: Callable[[int], bool]) -> list[Visitor]:
        """The same of one that is admitted. What came before its last message was read belongs to that."""
        visitor = self._visitors.get(fd)
        if visitor is None or visitor.admitted is None or visitor.leaving:
            return []
        if visitor.admitted.spoke:
            visitor.admitted.spoke = False
            visitor.settled = visitor.received
        visitor.received = max(visitor.received, received)
        return self._leave([visitor]) if visitor.owed > PENDING_BYTES and not has_room(0) else []

    def show_out(self, fd: int) -> list[Visitor]:
        """Drop the peer with this descriptor."""
        visitor = self._visitors.get(fd)
        return [] if visitor is None else self._leave([visitor])

    def _leave(self, visitors: list[Visitor]) -> list[Visitor]:
        leaving = [visitor for visitor in visitors if not visitor.leaving]
        for visitor in leaving:
            visitor.leaving = True
        return leaving


def origin_of(host: str) -> str:
    """The address whose connections are counted together: of IPv6 the network of 64 bits, which one device may have."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)
