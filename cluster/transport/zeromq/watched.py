"""Watched: the descriptors that an endpoint waits on, also for compiled code, which waits by itself."""

from __future__ import annotations

import select
from collections.abc import Container

import numpy as np
from numpy.typing import NDArray


class Watched:
    """A `select.poll` with a copy of what is in it."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._events: dict[int, int] = {}
        self.poll = self._poll.poll

    def register(self, fd: int, events: int) -> None:
        self._poll.register(fd, events)
        self._events[fd] = events

    def modify(self, fd: int, events: int) -> None:
        self._poll.modify(fd, events)
        self._events[fd] = events

    def unregister(self, fd: int) -> None:
        """Raises KeyError for one that is not watched."""
        self._poll.unregister(fd)
        del self._events[fd]

    def structs(self, without: Container[int]) -> NDArray[np.int32]:
        """(descriptors, 2), as poll takes them, but for some that are only to be read."""
        found = [(fd, events) for fd, events in self._events.items() if events != select.POLLIN or fd not in without]
        return np.array(found, np.int32).reshape(-1, 2)
