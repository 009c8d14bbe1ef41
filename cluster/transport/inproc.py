"""In-process transport: ranks are threads, links are queues.

Frames are passed without a copy. It is the default of ``fogconv-run`` without a cluster, and the test double for Session
and Worker: ``Hub.cut`` breaks a connection.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.transport.endpoint import Arrival, Event, Loss, Peer
from fogconv.errors import ConnectError

SCHEME = "inproc"


class Hub:
    """The connections between the endpoints of one process. Addresses are the names given to ``endpoint``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._endpoints: dict[str, InprocEndpoint] = {}
        self._cut: set[str] = set()

    def endpoint(self, name: str) -> InprocEndpoint:
        """A new endpoint. Raises ConnectError if the name is taken."""
        with self._lock:
            if name in self._endpoints:
                raise ConnectError(f"{name}: this in-process address is in use")
            self._cut.discard(name)
            self._endpoints[name] = InprocEndpoint(self, name)
            return self._endpoints[name]

    def cut(self, name: str, reason: str = "its thread ended") -> None:
        """Disconnect an endpoint without notice: the others get a Loss, and it receives nothing any more."""
        with self._lock:
            self._endpoints.pop(name, None)
            self._cut.add(name)
            others = list(self._endpoints.values())
        for other in others:
            other._deliver(Loss(name, reason))

    def _route(self, origin: str, to: str, frames: Sequence[Frame]) -> None:
        with self._lock:
            target = None if origin in self._cut else self._endpoints.get(to)
        if target is not None:
            target._deliver(Arrival(origin, frames))

    def _there(self, name: str) -> bool:
        with self._lock:
            return name in self._endpoints


class InprocEndpoint:
    """One thread's end; see transport.Endpoint. A peer is named by its address."""

    scheme = SCHEME

    def __init__(self, hub: Hub, name: str) -> None:
        self.name = name
        self._hub = hub
        # Not a SimpleQueue: CPython's waits for ever if its time runs out between its two tries to get the lock.
        self._events: queue.Queue[Event | None] = queue.Queue()
        self._known: set[Peer] = set()
        self._closed = False

    def connect(self, address: str, key: str | None = None) -> Peer:
        self._known.add(address)
        if not self._hub._there(address):
            self._events.put(Loss(address, "no worker has this in-process address"))
        return address

    def disconnect(self, peer: Peer) -> None:
        self._known.discard(peer)

    def trust(self, peer: Peer) -> None:
        """Nothing: within a process there are no strangers."""

    def distrust(self, peer: Peer) -> None:
        pass

    def ignore(self, peer: Peer) -> None:
        pass

    def drop(self, peer: Peer) -> None:
        self._known.discard(peer)

    def hold(self, peer: Peer) -> None:
        pass

    def send(self, peer: Peer, frames: Sequence[Frame], *, ordered: bool = True, behind: bool = False) -> None:
        if not self._closed:
            self._hub._route(self.name, str(peer), frames)

    def channel(self, peer: Peer) -> None:
        return None

    def lease(self) -> None:
        return None

    def end_lease(self) -> None: ...

    def room(self, nbytes: int) -> memoryview | None:
        return None

    def receive(self, timeout_s: float) -> Event | None:
        try:
            event = self._events.get(timeout=timeout_s) if timeout_s > 0 else self._events.get_nowait()
        except queue.Empty:
            return None
        if isinstance(event, Loss) and event.peer not in self._known:
            return None
        return event

    def wake(self) -> None:
        self._events.put(None)

    def admit(self, keys: frozenset[str]) -> None:
        pass

    def probe(self, peer: Peer) -> bool:
        return self._hub._there(str(peer))

    def diagnose(self, address: str) -> str:
        return ""

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._hub.cut(self.name, "it was closed")

    def _deliver(self, event: Event) -> None:
        if isinstance(event, Arrival):
            self._known.add(event.peer)
        self._events.put(event)
