"""Turns: runs of one worker that overlap compute one at a time, the oldest first.

A run that waits for a message lets the next one compute meanwhile, so that a rank of a stream is busy while a frame is on
other ranks. Without that rule two frames would share the processor, and each would take as long as both.
"""

from __future__ import annotations

import threading
from bisect import insort
from collections.abc import Callable
from typing import Any, TypeVar

from fogconv.cluster.executor.mailbox import Inbox, RunMailbox, Ways
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.transport.dispatcher import Dispatcher

T = TypeVar("T")


class Turns:
    """One turn at a time; who waits for it is served by the number of its run."""

    def __init__(self) -> None:
        # A lock of its own, because entering a Condition is a call in Python, and most turns are given and taken alone.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._taken = False
        self._waiting: list[int] = []
        self.runs = 0
        """How many are under way. Used under the dispatcher's lock."""

    def take(self, run: int) -> None:
        with self._lock:
            if self._taken or self._waiting:
                insort(self._waiting, run)
                while self._taken or self._waiting[0] != run:
                    self._changed.wait()
                del self._waiting[0]
            self._taken = True

    def give(self) -> None:
        with self._lock:
            self._taken = False
            if self._waiting:
                self._changed.notify_all()

    def let_older(self, run: int) -> None:
        """Let an older run go first, if one waits."""
        if self._waiting and self._waiting[0] < run:
            self.give()
            self.take(run)


class TurnMailbox(RunMailbox):
    """The mailbox of a run that gives its turn away while it waits. ``copies``: the next run may use the program's buffers
    before this one's messages have left, so that they are sent as copies."""

    def __init__(
        self,
        turns: Turns,
        board: Dispatcher,
        inbox: Inbox,
        run: int,
        post: Callable[[int, int, Frame], None],
        timeout_s: float,
        ways: Ways = Ways(),
        *,
        copies: bool,
    ) -> None:
        super().__init__(board, inbox, run, post, timeout_s, ways)
        self._turns = turns
        self._copies = copies

    def send(self, to: int, tag: int, payload: Frame) -> None:
        self.sent_bytes += len(payload)
        self._post(to, tag, bytes(payload) if self._copies else payload)

    def room(self, nbytes: int) -> memoryview | None:
        return None if self._copies else super().room(nbytes)

    def proceed(self) -> None:
        super().proceed()
        self._turns.let_older(self.run)

    def _wait(self, ready: Callable[..., T | None], timeout_s: float, *about: Any) -> T | None:
        board = self._board
        with board.lock:
            found = ready(*about)
        if found is not None or timeout_s <= 0:
            return found
        self._turns.give()
        try:
            return board.wait(ready, timeout_s, *about)
        finally:
            self._turns.take(self.run)
