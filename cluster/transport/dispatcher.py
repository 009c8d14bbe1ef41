"""Dispatcher: several threads wait for different messages on one endpoint.

There is no receiving thread, because a switch between threads costs more than a small message. The first waiting thread
receives for all (it leads); the others sleep until something was handled. When the leader has its message, another thread
takes over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from fogconv.cluster.transport.endpoint import Endpoint, Event

if TYPE_CHECKING:
    from fogconv.cluster.transport.channel import Lease

T = TypeVar("T")


class Dispatcher:
    """``handle`` is called with every event, under ``lock``, by whichever thread leads.

    What it raises never reaches the thread that leads, which waits for something else: ``failed`` gets the event and the
    error, and must not raise.
    """

    def __init__(
        self, endpoint: Endpoint, handle: Callable[[Event], None], failed: Callable[[Event, Exception], None]
    ) -> None:
        self.endpoint = endpoint
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._handle = handle
        self._failed = failed
        self._leading = False
        self._asleep = 0
        self._lease: Lease | None = None

    def lease(self) -> Lease | None:
        """Lead without receiving, so that compiled code can wait for a message of its own, until ``end_lease``. None where
        another thread leads or waits, or there is something to handle."""
        with self.lock:
            structs = None if self._leading or self._asleep else self.endpoint.lease()
            if structs is None:
                return None
            # Imported late: what has no lease may have no compiled code.
            from fogconv.cluster.transport.channel import Lease

            self._leading = True
            self._lease = Lease(structs)
            return self._lease

    def end_lease(self) -> None:
        """Lead no more, and handle what others would have."""
        with self.lock:
            self.endpoint.end_lease()
            lease, self._lease = self._lease, None
            self._leading = False
            if self._asleep:
                self._changed.notify_all()
        if lease is not None and lease.wanted:
            self.drain()

    def recall(self) -> None:
        """Let the lease end, if there is one: something else is to be done in this thread's turn."""
        with self.lock:
            if self._lease is not None:
                self._lease.want()
                self.endpoint.wake()

    def wait(self, ready: Callable[..., T | None], timeout_s: float, *about: object) -> T | None:
        """Wait until ``ready(*about)`` is not None and return it; None after the time. ``ready`` is called under the
        lock, and may raise."""
        with self.lock:
            found = ready(*about)
            if found is not None:
                return found
            deadline = time.monotonic() + timeout_s
            remaining = timeout_s
            while remaining > 0:
                if self._leading:
                    self.recall()
                    self._asleep += 1
                    self._changed.wait(remaining)
                    self._asleep -= 1
                else:
                    self._lead(remaining)
                found = ready(*about)
                if found is not None:
                    return found
                remaining = deadline - time.monotonic()
            return None

    def drain(self) -> None:
        """Handle the events that have arrived, without waiting. If another thread leads, it does; one with a lease soon."""
        with self._changed:
            if self._lease is not None:
                self._lease.want()
            while not self._leading and self._lead(0.0):
                pass

    def changed(self) -> None:
        """Data that ``ready`` reads has changed outside of ``handle``."""
        with self._changed:
            if self._lease is not None:
                self._lease.want()
            self._changed.notify_all()
        self.endpoint.wake()

    def _lead(self, timeout_s: float) -> bool:
        self._leading = True
        self.lock.release()
        try:
            event = self.endpoint.receive(timeout_s)
        finally:
            self.lock.acquire()
            self._leading = False
            if self._asleep:
                self._changed.notify_all()
        if event is not None:
            try:
                self._handle(event)
            except Exception as error:
                self._failed(event, error)
        return event is not None
