"""Messages between the ranks of one run, which are threads of this process, in the place of a mailbox."""

from __future__ import annotations

import threading
from typing import Any

Messages = dict[tuple[int, int, int], bytes]
"""By origin, target and tag."""


class Post:
    """The messages of all ranks of one run, which are threads of this process."""

    def __init__(self, rank: int, there: Messages, arrived: threading.Condition) -> None:
        self._rank, self._there, self._arrived = rank, there, arrived

    def send(self, to: int, tag: int, payload: Any) -> None:
        with self._arrived:
            self._there[self._rank, to, tag] = bytes(payload)
            self._arrived.notify_all()

    def receive(self, origin: int, tag: int) -> bytes:
        key = (origin, self._rank, tag)
        with self._arrived:
            assert self._arrived.wait_for(lambda: key in self._there, timeout=120), f"no message {key}"
            return self._there.pop(key)

    def open(self, messages: Any) -> None: ...

    def room(self, nbytes: int) -> memoryview | None:
        return None

    def proceed(self) -> None: ...
