"""Stream: many frames of one engine, several in flight at once, their results in order.

    lane     a plan of its own ranks, loaded as often as frames may be in flight on it; a plan has one, replicas have many
    flight   a frame on its way: it waits for a lane, runs, and waits for those before it

A frame goes to the lane that will be done with it first, of those that are free: a rank that slows down costs what it
computes less, and holds up no other.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Protocol

from fogconv.cluster.session.loaded_program import Loaded, RunResult
from fogconv.cluster.session.session import Session
from fogconv.errors import ClusterError, WorkerLostError, WorkerMemoryError
from fogconv.ir.arrays import Array
from fogconv.ir.plan import Plan
from fogconv.runtime.membership import MEMBER_ERRORS
from fogconv.values import table

USUAL = 3
"""Frames in flight where the plan states no number."""
MOST_HELD = 64
"""Results that wait for an earlier frame's; with more no frame is started."""
SLOW = 2.0
"""A lane that takes so many times as long as the fastest one gets one frame at a time: a second one would wait too long."""
STALL_S = 10.0
"""A reader that takes no result for so long, while results are there, is reported."""


class Streaming(Protocol):
    """The part of an engine that a stream uses."""

    session: Session

    @property
    def events(self) -> deque[str]: ...

    @property
    def lanes(self) -> Sequence[tuple[Plan, Loaded]]: ...

    def members_change(self) -> bool: ...

    def next_members(self) -> tuple[str, ...]: ...

    def load(self, lane: int, like: Loaded | None = None) -> Loaded: ...

    def recover(self, error: ClusterError) -> tuple[str, ...]: ...

    def watch(self, run: RunResult) -> None: ...

    def outputs(self, run: RunResult) -> Mapping[str, Array]: ...


def stream(engine: Streaming, frames: Iterable[list[Array]], depth: int | None) -> Iterator[Mapping[str, Array]]:
    """The outputs of many inputs, in order, with at most ``depth`` inferences in flight; see
    `fogconv.runtime.engine.Engine.stream_outputs`."""
    if depth is not None:
        table.IN_FLIGHT.check("depth", depth)
    flights = Flights(engine, depth)
    source, more, taken = iter(frames), True, 0
    failure: Exception | None = None
    try:
        while more or flights:
            if not (more and flights.room):
                result = flights.landed()
                if result is not None:
                    taken += 1
                    yield from flights.given(engine.outputs(result))
                continue
            try:
                frame = next(source)
            except StopIteration:
                more = False
                continue
            except Exception as error:
                failure, more = error, False
                continue
            if engine.members_change():
                while flights:
                    result = flights.landed()
                    if result is not None:
                        taken += 1
                        yield from flights.given(engine.outputs(result))
                before = engine.lanes
                engine.next_members()
                if engine.lanes is not before:
                    flights.reload()
            flights.launch(frame)
        if failure is not None:
            engine.events.append(
                f"the stream's source ended after {taken} frames with {type(failure).__name__}; all their results were given"
            )
            raise failure
    finally:
        flights.close()


@dataclass(eq=False)
class Flight:
    """``future`` is None until a lane is free; times are perf_counter seconds."""

    frame: list[Array]
    future: Future[RunResult] | None = None
    begun_s: float = 0.0
    ended_s: float = 0.0

    @property
    def done(self) -> bool:
        return self.future is not None and self.future.done()

    def start(self, future: Future[RunResult]) -> None:
        self.begun_s, self.future = time.perf_counter(), future
        future.add_done_callback(self._ended)

    def _ended(self, _: Future[RunResult]) -> None:
        self.ended_s = time.perf_counter()


@dataclass(eq=False)
class Lane:
    """``pace_s``: seconds per frame, as predicted at first and then as measured."""

    free: deque[Loaded]
    pace_s: float
    busy: list[tuple[Flight, Loaded]] = field(default_factory=list)
    slots: tuple[Loaded, ...] = ()
    last_s: float = 0.0

    def clear(self) -> None:
        """Take back what landed."""
        landed = sorted((each for each in self.busy if each[0].done), key=lambda each: each[0].ended_s)
        for flight, slot in landed:
            seconds = flight.ended_s - max(flight.begun_s, self.last_s)
            self.pace_s = (self.pace_s + seconds) / 2 if self.last_s else seconds
            self.last_s = flight.ended_s
            self.free.append(slot)
        self.busy = [each for each in self.busy if each not in landed]

    def may_start(self, fastest_s: float) -> bool:
        return bool(self.free) and (not self.busy or self.pace_s <= SLOW * fastest_s)


class Flights:
    """The inferences in flight of a stream, in the order of their frames."""

    def __init__(self, engine: Streaming, depth: int | None) -> None:
        self._engine = engine
        self._depth = depth
        self._order: deque[Flight] = deque()
        self._lanes: list[Lane] = []
        self._given_s = 0.0
        self.reload()

    def __len__(self) -> int:
        return len(self._order)

    @property
    def room(self) -> bool:
        """Whether another frame can start at once."""
        waiting = sum(not flight.done for flight in self._order)
        if self._depth is not None and waiting >= self._depth:
            return False
        return len(self._order) - waiting < MOST_HELD and self._next_lane() is not None and not self._unstarted

    @property
    def _unstarted(self) -> list[Flight]:
        return [flight for flight in self._order if flight.future is None]

    def launch(self, frame: list[Array]) -> None:
        self._order.append(Flight(frame))
        self._start()

    def landed(self) -> RunResult | None:
        """The result of the oldest one, when it is there; None when there is room for another one before. Inferences that a
        loss affected are run again."""
        while True:
            self._start()
            oldest = self._order[0]
            if oldest.future is not None and oldest.done:
                try:
                    result = oldest.future.result()
                except MEMBER_ERRORS as error:
                    self._again(error)
                    continue
                self._order.popleft()
                if len(self._lanes) == 1:
                    self._engine.watch(result)
                else:
                    self._engine.events.extend(result.events)
                return result
            wait([flight.future for flight in self._order if flight.future and not flight.done], None, FIRST_COMPLETED)
            if not oldest.done and self.room:
                return None

    def given(self, outputs: Mapping[str, Array]) -> Iterator[Mapping[str, Array]]:
        """Give a result to the reader, and report one that lets results wait."""
        begin = time.monotonic()
        yield outputs
        seconds = time.monotonic() - begin
        if seconds >= STALL_S and self._order and all(flight.done for flight in self._order):
            self._engine.events.append(
                f"the stream's reader took no result for {seconds:.0f} s; {len(self._order)} frames that were ready waited"
            )

    def reload(self) -> None:
        """Load each lane's programs as often as frames may be in flight on it."""
        while True:
            self._forget()
            self._lanes = [Lane(deque([loaded]), plan.predicted_s or 0.0) for plan, loaded in self._engine.lanes]
            try:
                for number, (plan, _) in enumerate(self._engine.lanes):
                    self._fill(number, plan, self._slots(plan))
                return
            except WorkerLostError as error:
                self._engine.recover(error)

    def close(self) -> None:
        wait([flight.future for flight in self._order if flight.future])
        if self._order:
            self._engine.events.append(
                f"the stream was closed before its end: the results of {len(self._order)} frames were not taken"
            )
        self._order.clear()
        self._forget()

    def _slots(self, plan: Plan) -> int:
        lanes = len(self._engine.lanes)
        if self._depth is not None:
            return -(-self._depth // lanes)
        return plan.in_flight if plan.in_flight > 1 or lanes > 1 else USUAL

    def _fill(self, number: int, plan: Plan, slots: int) -> None:
        """As many copies of a lane's programs as there is memory for; the plan may state that some use the same copy on the
        workers."""
        lane = self._lanes[number]
        while (slot := len(lane.free)) < slots:
            shared = plan.copies <= slot < plan.in_flight
            try:
                lane.free.append(self._engine.load(number, lane.free[slot % plan.copies] if shared else None))
            except WorkerMemoryError as error:
                self._engine.events.append(f"{error}; {len(lane.free)} frames are in flight there instead of {slots}")
                break
        lane.slots = tuple(lane.free)

    def _next_lane(self) -> Lane | None:
        for lane in self._lanes:
            lane.clear()
        fastest_s = min(lane.pace_s for lane in self._lanes)
        free = [lane for lane in self._lanes if lane.may_start(fastest_s)]
        return min(free, key=lambda lane: (1 + len(lane.busy)) * lane.pace_s, default=None)

    def _start(self) -> None:
        for flight in self._unstarted:
            lane = self._next_lane()
            if lane is None:
                return
            slot = lane.free.popleft()
            lane.busy.append((flight, slot))
            flight.start(self._engine.session.submit(slot, flight.frame))

    def _again(self, error: ClusterError) -> None:
        """Wait for the inferences in flight, then start the failed ones again on the remaining members."""
        wait([flight.future for flight in self._order if flight.future])
        self._engine.recover(error)
        self.reload()
        for flight in self._order:
            if flight.future is not None and flight.future.exception() is not None:
                flight.future = None
        self._start()

    def _forget(self) -> None:
        for lane in self._lanes:
            for slot in lane.slots[1:]:
                self._engine.session.unload(slot)
        self._lanes = []
