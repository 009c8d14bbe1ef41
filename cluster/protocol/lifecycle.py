"""Lifecycle: a worker's life as one table, without I/O.

            welcome      run          done, failed, abort
    JOINING ──────▶ READY ──────▶ BUSY ──────▶ READY
       ▲  └ refuse ┐  │  loss, bye  │
       │           ▼  ▼             ▼
       └─ rejoin ─ LOST ◀───────────┘           stop from anywhere: STOPPED, the end

Both ends keep it: the worker for itself (LOST: its master is), the master for each worker.
"""

from __future__ import annotations

from enum import Enum

from fogconv.errors import ClusterError


class State(Enum):
    JOINING = "joining"
    READY = "ready"
    BUSY = "busy"
    LOST = "lost"
    STOPPED = "stopped"


class Event(Enum):
    WELCOME = "welcome"
    REFUSE = "refuse"
    RUN = "run"
    FINISH = "finish"
    LOSS = "loss"
    REJOIN = "rejoin"
    STOP = "stop"


class LifecycleError(ClusterError):
    """An event that this state does not allow."""


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.JOINING, Event.WELCOME): State.READY,
    (State.JOINING, Event.REFUSE): State.LOST,
    (State.JOINING, Event.LOSS): State.LOST,
    (State.READY, Event.RUN): State.BUSY,
    (State.READY, Event.LOSS): State.LOST,
    (State.BUSY, Event.FINISH): State.READY,
    (State.BUSY, Event.LOSS): State.LOST,
    (State.LOST, Event.LOSS): State.LOST,
    (State.LOST, Event.REJOIN): State.JOINING,
    **{(state, Event.STOP): State.STOPPED for state in State},
}
"""What is not here is not allowed."""


class Lifecycle:
    """The state of one worker; ``runs`` may overlap (several in flight), it is BUSY until the last one is finished."""

    def __init__(self, state: State = State.JOINING) -> None:
        self.state = state
        self.runs = 0

    def apply(self, event: Event) -> State:
        """The state after an event. Raises LifecycleError if the table has none; the state then stays."""
        if self.state is State.BUSY and event is Event.RUN:
            self.runs += 1
            return self.state
        if self.state is State.BUSY and event is Event.FINISH and self.runs > 1:
            self.runs -= 1
            return self.state
        after = TRANSITIONS.get((self.state, event))
        if after is None:
            raise LifecycleError(f"a worker that is {self.state.value} can't {event.value}")
        self.state = after
        self.runs = 1 if after is State.BUSY else 0
        return after

    @property
    def joined(self) -> bool:
        return self.state in (State.READY, State.BUSY)
