"""Stream: several inferences of one engine in flight at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from typing import Protocol

from fogconv.cluster.session.loaded_program import Loaded, RunResult
from fogconv.cluster.session.session import Session
from fogconv.errors import ClusterError, WorkerLostError
from fogconv.ir.arrays import Array
from fogconv.runtime.membership import MEMBER_ERRORS
from fogconv.values import table


class Streaming(Protocol):
    """The part of an engine that a stream uses."""

    session: Session
    loaded: Loaded

    def members_change(self) -> bool: ...

    def next_members(self) -> tuple[str, ...]: ...

    def load(self) -> Loaded: ...

    def recover(self, error: ClusterError) -> tuple[str, ...]: ...

    def watch(self, run: RunResult) -> None: ...

    def outputs(self, run: RunResult) -> Mapping[str, Array]: ...


def stream(engine: Streaming, frames: Iterable[list[Array]], depth: int) -> Iterator[Mapping[str, Array]]:
    """The outputs of many inputs, in order, with ``depth`` inferences in flight; see
    `fogconv.runtime.engine.Engine.stream_outputs`."""
    table.IN_FLIGHT.check("depth", depth)
    flights = Flights(engine, depth)
    try:
        for frame in frames:
            if engine.members_change():
                while flights:
                    yield engine.outputs(flights.land())
                before = engine.loaded
                engine.next_members()
                if engine.loaded is not before:
                    flights.reload()
            if len(flights) == depth:
                yield engine.outputs(flights.land())
            flights.launch(frame)
        while flights:
            yield engine.outputs(flights.land())
    finally:
        flights.close()


class Flights:
    """The inferences in flight of a stream, the oldest first, each with its own Loaded."""

    def __init__(self, engine: Streaming, depth: int) -> None:
        self._engine = engine
        self._depth = depth
        self._waiting: deque[tuple[list[Array], Future[RunResult]]] = deque()
        self._slots: list[Loaded] = []
        self._next = 0
        self.reload()

    def __len__(self) -> int:
        return len(self._waiting)

    def launch(self, frame: list[Array]) -> None:
        slot = self._slots[self._next % self._depth]
        self._next += 1
        self._waiting.append((frame, self._engine.session.submit(slot, frame)))

    def land(self) -> RunResult:
        """The result of the oldest one; inferences that a loss affected are run again."""
        while True:
            try:
                result = self._waiting[0][1].result()
            except MEMBER_ERRORS as error:
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
        """Wait for the inferences in flight, then start the failed ones again on the remaining members."""
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
