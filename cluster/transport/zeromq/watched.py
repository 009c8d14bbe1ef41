"""Watched: the descriptors that an endpoint waits on, also for compiled code, which waits by itself."""

from __future__ import annotations

import select

import numpy as np
from numpy.typing import NDArray


class Watched:
    """A `select.poll` with a copy of what is in it."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._events: dict[int, int] = {}
        self._structs: NDArray[np.int32] | None = None
        self.poll = self._poll.poll

    def register(self, fd: int, events: int) -> None:
        self._poll.register(fd, events)
        self._events[fd] = events
        self._structs = None

    def modify(self, fd: int, events: int) -> None:
        self._poll.modify(fd, events)
        self._events[fd] = events
        self._structs = None

    def unregister(self, fd: int) -> None:
        """Raises KeyError for one that is not watched."""
        self._poll.unregister(fd)
        del self._events[fd]
        self._structs = None

    def structs(self) -> NDArray[np.int32]:
        """(descriptors, 2): as poll takes them. A new array after each change."""
        if self._structs is None:
            self._structs = np.array(list(self._events.items()), np.int32).reshape(-1, 2)
        return self._structs
