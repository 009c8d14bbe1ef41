"""Dispatcher: several threads wait for different messages on one endpoint.

There is no receiving thread, because a switch between threads costs more than a small message. The first waiting thread
receives for all (it leads); the others sleep until something was handled. When the leader has its message, another thread
takes over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from fogconv.cluster.transport.endpoint import Endpoint, Event

T = TypeVar("T")


class Dispatcher:
    """``handle`` is called with every event, under ``lock``, by whichever thread leads."""

    def __init__(self, endpoint: Endpoint, handle: Callable[[Event], None]) -> None:
        self.endpoint = endpoint
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._handle = handle
        self._leading = False
        self._asleep = 0

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
        """Handle the events that have arrived, without waiting; does nothing if another thread leads."""
        with self._changed:
            while not self._leading and self._lead(0.0):
                pass

    def changed(self) -> None:
        """Data that ``ready`` reads has changed outside of ``handle``."""
        with self._changed:
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
            self._handle(event)
        return event is not None
