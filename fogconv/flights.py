"""Flights: several inferences of one engine under way at once."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING

from fogconv.cluster.loaded import Loaded, RunResult
from fogconv.errors import ClusterError, TransportTimeout, WorkerFailedError, WorkerLostError
from fogconv.layers import Array

if TYPE_CHECKING:
    from fogconv.engine import Engine

CREW_ERRORS = (WorkerLostError, WorkerFailedError, TransportTimeout)
"""What a run may raise because somebody is gone: a peer's report of it may be faster than the master's own notice."""


class Flights:
    """The inferences in flight of a stream, the oldest first, each with a Loaded of its own."""

    def __init__(self, engine: Engine, depth: int) -> None:
        self._engine = engine
        self._depth = depth
        self._waiting: deque[tuple[Array, Future[RunResult]]] = deque()
        self._slots: list[Loaded] = []
        self._next = 0
        self.reload()

    def __len__(self) -> int:
        return len(self._waiting)

    def launch(self, frame: Array) -> None:
        slot = self._slots[self._next % self._depth]
        self._next += 1
        self._waiting.append((frame, self._engine.session.submit(slot, [frame])))

    def land(self) -> RunResult:
        """The result of the oldest one; what a loss spoilt has been run again."""
        while True:
            try:
                result = self._waiting[0][1].result()
            except CREW_ERRORS as error:
                self._again(error)
            else:
                self._waiting.popleft()
                self._engine.watch(result)
                return result

    def reload(self) -> None:
        """Load as many copies of the engine's programs as may be in flight."""
        while True:
            self._forget()
            self._slots = [self._engine.loaded]
            try:
                while len(self._slots) < self._depth:
                    self._slots.append(self._engine.load())
                return
            except WorkerLostError as error:
                self._engine.recover(error)

    def close(self) -> None:
        wait([future for _, future in self._waiting])
        self._forget()

    def _again(self, error: ClusterError) -> None:
        """Let what still flies come down, then launch what failed once more over those that are left."""
        wait([future for _, future in self._waiting])
        self._engine.recover(error)
        self.reload()
        flown, self._waiting, self._next = self._waiting, deque(), 0
        for frame, future in flown:
            if future.exception() is None:
                self._waiting.append((frame, future))
                self._next += 1
            else:
                self.launch(frame)

    def _forget(self) -> None:
        for slot in self._slots[1:]:
            self._engine.session.unload(slot)
        self._slots = []
