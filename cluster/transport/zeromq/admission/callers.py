"""Callers: the peers that connected to a bound socket, and how far each is trusted."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from fogconv.cluster.transport.endpoint import Peer
from fogconv.cluster.transport.zeromq.admission.doorkeeper import Doorkeeper
from fogconv.cluster.transport.zeromq.admission.register import Account

PROBE_DELAYS_S = (0.01, 0.1, 0.5)
"""After a ROUTER lost a connection its routing id disappears shortly after."""


@dataclass(slots=True)
class Caller(Account):
    """A peer that connected here. ``fd``: its connection's descriptor, which is ZeroMQ's; -1 where that is not known."""

    credential: str | None = None
    fd: int = -1
    trusted: bool = False
    ignored: bool = False
    """Nothing that comes of it is even looked at, nor settled with the doorkeeper: a little more, and it is shown out."""


class Callers:
    """Not locked: the endpoint is. ``reachable`` says whether a peer's connection is still there; ``forget`` drops what has
    been received of a message of a peer that is no longer trusted."""

    def __init__(self, reachable: Callable[[Peer], bool], forget: Callable[[Peer], None]) -> None:
        self.known: dict[Peer, Caller] = {}
        self.doorkeeper: Doorkeeper | None = None
        self.probe_at: deque[float] = deque()
        """When to probe them all, by the monotonic clock."""
        self._reachable = reachable
        self._forget = forget

    def meet(self, peer: Peer, credential: str | None, fd: int) -> Caller:
        """A peer's first message."""
        caller = self.known[peer] = Caller(credential=credential, fd=fd)
        # Its connection may have ended before this was read, with thousands of messages behind it, or been given up.
        caller.ignored = not self._reachable(peer)
        return caller

    def probe(self, peer: Peer) -> bool:
        """Whether a peer is still connected."""
        return peer in self.known and self._reachable(peer)

    def trust(self, peer: Peer) -> None:
        caller = self.known.get(peer)
        if caller is not None and not caller.trusted and self.doorkeeper is not None:
            caller.trusted = True
            self.doorkeeper.admit(caller.fd, caller)

    def distrust(self, peer: Peer) -> None:
        caller = self.known.get(peer)
        if caller is not None and caller.trusted and self.doorkeeper is not None:
            caller.trusted = False
            self._forget(peer)
            self.doorkeeper.dismiss(caller.fd)

    def ignore(self, peer: Peer) -> None:
        self.distrust(peer)
        caller = self.known.get(peer)
        if caller is not None:
            # It stays known until its connection has ended: more of it may be here already.
            caller.ignored = True

    def show_out(self, peer: Peer) -> bool:
        """End a peer's connection. False where it did not connect here."""
        caller = self.known.get(peer)
        if caller is not None and self.doorkeeper is not None:
            self.doorkeeper.show_out(caller.fd)
        return caller is not None

    def settle(self, peer: Peer, frames: int, nbytes: int) -> bool:
        """A message of a peer that is not trusted was read. False where it is ignored."""
        caller = self.known.get(peer)
        if caller is not None and self.doorkeeper is not None:
            if caller.ignored:
                return False
            self.doorkeeper.settle(caller.fd, frames, nbytes)
        return True

    def probe_soon(self) -> None:
        """Probe them shortly, and again. A probe that is due already stays due, however many connections end."""
        now = time.monotonic()
        due = [self.probe_at[0]] if self.probe_at else []
        self.probe_at.clear()
        self.probe_at.extend([*due, *(now + delay for delay in PROBE_DELAYS_S)])

    def unreachable(self) -> list[Peer]:
        """The peers whose connections have ended, if a probe is due. To be called while some are to come."""
        if time.monotonic() < self.probe_at[0]:
            return []
        self.probe_at.popleft()
        return [peer for peer in list(self.known) if not self._reachable(peer)]
