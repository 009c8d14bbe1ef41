"""Exchange: the direct connections of one endpoint, by peer, from the ask to the end.

Only messages that need no order travel over them, because ZeroMQ's own may overtake those, and be overtaken. The socket's
other end may close a connection when it no longer wants what comes over it; that is no loss. One that breaks is: what was on
its way is lost, as with the link itself.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket as sockets
import time

from fogconv.cluster.transport.endpoint import Peer
from fogconv.cluster.transport.zeromq.direct.connection import Connection
from fogconv.cluster.transport.zeromq.direct.opening import (
    SEALED_ASKS,
    Calling,
    Listening,
    Opening,
    ask_for,
    dial,
    listen,
)
from fogconv.cluster.transport.zeromq.direct.sealing import available
from fogconv.cluster.transport.zeromq.watched import Watched

log = logging.getLogger("fogconv.transport")

_READ, _WRITE = select.POLLIN, select.POLLOUT


class Exchange:
    """Not locked: the endpoint is. ``poller``: the endpoint's, in which the sockets are watched."""

    def __init__(self, poller: Watched) -> None:
        self._poller = poller
        self._asked: dict[Peer, bytes] = {}
        self._openings: dict[Peer, Opening] = {}
        self._opening_at: dict[int, tuple[Peer, sockets.socket]] = {}
        self.peer_at: dict[int, Peer] = {}
        """Whose connection has a descriptor."""
        self.connections: dict[Peer, Connection] = {}

    # Messages

    def flush_later(self, connection: Connection) -> None:
        """A part of what was sent waits for the system to take it: ``flush`` when its descriptor reports something."""
        self._poller.modify(connection.fd, _READ | _WRITE)

    def flush(self, connection: Connection) -> None:
        """Send what waits, as far as the system takes it. Raises OSError for a connection that broke."""
        connection.flush()
        if not connection.rest:
            self._poller.modify(connection.fd, _READ)

    # Opening

    def ask(self, peer: Peer, near: bool, sealed: bool = False) -> bytes | None:
        """What to ask a peer over the link before the first message; None where that was done, or can't be.

        ``near``: it is on this machine. ``sealed``: the link is encrypted.
        """
        if peer in self._asked or (sealed and not available()):
            return None
        ask = self._asked[peer] = ask_for(near, sealed)
        return ask

    def answer(self, peer: Peer, ask: bytes, host: str, sealed: bool = False) -> bytes | None:
        """The offer to a peer that asks; ``host`` is what this end is bound to, empty for a Unix socket."""
        self.forget(peer)
        if sealed != (ask in SEALED_ASKS) or (sealed and not available()):
            log.info("no direct connection: one end seals, and the other does not")
            return None
        try:
            opening, offer = listen(ask, host)
        except OSError as error:
            log.info("no direct connection: %s", error)
            return None
        self._watch(peer, opening)
        return offer

    def accept(self, peer: Peer, offer: bytes, host: str) -> None:
        """Dial what a peer offers, at the host of its link (empty on one machine), if it was asked and has not offered
        before."""
        if peer not in self._asked or peer in self._openings or peer in self.connections:
            return
        try:
            self._watch(peer, dial(offer, self._asked[peer], host))
        except (OSError, ValueError) as error:
            log.info("no direct connection: %s", error)

    def go_on(self, fd: int) -> bool:
        """A descriptor has something: whether it belongs to an opening, which is then carried on."""
        found = self._opening_at.get(fd)
        if found is None:
            return False
        peer, raw = found
        opening = self._openings[peer]
        try:
            opened = opening.go_on(raw)
        except BlockingIOError:
            return True
        except OSError as error:
            log.info("no direct connection: %s", error)
            self._close_opening(peer)
            return True
        if opened is None:
            self._watch(peer, opening)
            return True
        self._close_opening(peer, but=opened)
        connection = self.connections[peer] = Connection(opened, opening.seal())
        self.peer_at[connection.fd] = peer
        self._poller.register(connection.fd, _READ)
        return True

    def expire(self) -> None:
        """Close the ports to which the other end did not come in time."""
        if self._openings:
            now = time.monotonic()
            late = [peer for peer, each in self._openings.items() if isinstance(each, Listening) and now > each.until]
            for peer in late:
                self._close_opening(peer)

    # The end

    def forget(self, peer: Peer) -> None:
        """No more of this peer."""
        self._asked.pop(peer, None)
        self._close_opening(peer)
        connection = self.connections.pop(peer, None)
        if connection is not None:
            del self.peer_at[connection.fd]
            self._poller.unregister(connection.fd)
            connection.close()

    def close(self) -> None:
        for peer in [*self._openings, *self.connections]:
            self.forget(peer)

    def _watch(self, peer: Peer, opening: Opening) -> None:
        """Watch an opening's sockets, of which there may be others than before."""
        self._openings[peer] = opening
        self._unwatch(peer)
        writes = isinstance(opening, Calling) and not opening.greeted
        for raw in opening.watched:
            self._opening_at[raw.fileno()] = peer, raw
            self._poller.register(raw.fileno(), _WRITE if writes else _READ)

    def _unwatch(self, peer: Peer) -> None:
        for fd in [fd for fd, (other, _) in self._opening_at.items() if other == peer]:
            del self._opening_at[fd]
            with contextlib.suppress(KeyError):
                self._poller.unregister(fd)

    def _close_opening(self, peer: Peer, but: sockets.socket | None = None) -> None:
        opening = self._openings.pop(peer, None)
        if opening is None:
            return
        self._unwatch(peer)
        for raw in opening.watched:
            if raw is not but:
                raw.close()
