"""Lifecycle: a worker's life as one pure table: ``handle(life, event)`` returns the next life and the actions to take.

            welcome      run          last run's end
    JOINING ──────▶ READY ──────▶ BUSY ──────▶ READY
       ▲  └ refuse ┐  │  loss        │
       │           ▼  ▼              ▼
       └─ invite ─ LOST ◀────────────┘           stop from anywhere: STOPPED, the end

Both ends keep it, per master: the worker for itself, and each master for each of its workers (under its own name only). A
master keeps the record of a lost worker; a worker drops that of a master that has left. Nothing here sends, waits or
reads a clock: the caller of ``handle`` carries out the effects.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from fogconv.errors import ClusterError

Master = Hashable
"""Identifies a master: the worker's link to it, or a session's own token."""


class Stage(Enum):
    JOINING = "joining"
    READY = "ready"
    BUSY = "busy"
    LOST = "lost"
    STOPPED = "stopped"


class LifecycleError(ClusterError):
    """An event that this state does not allow."""


# The state


@dataclass(frozen=True, slots=True)
class Flight:
    """A run in flight. ``partners``: the ranks whose links it uses. ``expendable``: it can end without this worker."""

    run: int
    partners: frozenset[int] = frozenset()
    expendable: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """A worker's life with one master. ``reason``: the cause of its loss, or of being ``refused``.

    ``term`` counts the greetings of all masters: a master that greets again starts a new one. ``away``: it was lost, and
    has not rejoined since. ``reconnects``: how often workers reconnected their links since the last successful run.
    """

    stage: Stage = Stage.JOINING
    term: int = 0
    flights: tuple[Flight, ...] = ()
    reason: str = ""
    refused: bool = False
    away: bool = False
    reconnects: int = 0

    @property
    def joined(self) -> bool:
        return self.stage is Stage.READY or self.stage is Stage.BUSY

    def carries(self, run: int) -> bool:
        """Whether the worker takes part in this run, which is not over."""
        # A loop: this is called for every message of a run, and a generator takes twice as long.
        for flight in self.flights:  # noqa: SIM110
            if flight.run == run:
                return True
        return False


@dataclass(frozen=True, slots=True)
class Life:
    """A worker's whole life. ``most``: the number of masters at a time. ``once``: it stops when the last of them has
    left."""

    most: int = 1
    once: bool = False
    masters: Mapping[Master, Service] = field(default_factory=dict)
    terms: int = 0
    stopped: bool = False
    reason: str = ""
    """The reason for stopping."""

    @property
    def stage(self) -> Stage:
        """The stage of the process: the most active one for any of its masters."""
        if self.stopped:
            return Stage.STOPPED
        stages = {service.stage for service in self.masters.values()}
        return next((stage for stage in (Stage.BUSY, Stage.READY) if stage in stages), Stage.JOINING)

    def of(self, master: Master) -> Service:
        """The life with one master."""
        if self.stopped:
            return Service(Stage.STOPPED, reason=self.reason)
        return self.masters.get(master, _STRANGER)

    def serves(self, master: Master, term: int) -> bool:
        """Whether the term that started with a greeting is still valid."""
        service = self.of(master)
        return service.joined and service.term == term


_STRANGER = Service()


# Events: what happened


@dataclass(frozen=True, slots=True)
class Greeted:
    """A master asks a worker to serve it. ``gone``: masters that are known to be lost."""

    master: Master
    gone: frozenset[Master] = frozenset()


@dataclass(frozen=True, slots=True)
class Invited:
    """A master invites this worker, for the first time or again."""

    master: Master


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The worker accepted."""

    master: Master


@dataclass(frozen=True, slots=True)
class Refused:
    """The worker refused."""

    master: Master
    reason: str


@dataclass(frozen=True, slots=True)
class RunBegun:
    master: Master
    flight: Flight


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run is over: finished, failed or aborted. ``well``: it finished."""

    master: Master
    run: int
    well: bool = True


@dataclass(frozen=True, slots=True)
class LinkBroke:
    """The worker's link to another rank broke; both ranks may still be alive."""

    master: Master
    rank: int
    reason: str


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The workers are to reconnect their links to each other."""

    master: Master


@dataclass(frozen=True, slots=True)
class Lost:
    """The worker is lost, or can't be trusted."""

    master: Master
    reason: str


@dataclass(frozen=True, slots=True)
class TakenBack:
    """A worker that was away has rejoined its master."""

    master: Master


@dataclass(frozen=True, slots=True)
class Left:
    """The master has left, is lost, or sent too many requests."""

    master: Master
    reason: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """The end: of the worker, or of the session that kept this record of it."""

    reason: str


OfMaster = Greeted | Invited | Welcomed | Refused | RunBegun | RunEnded | LinkBroke | Reconnected | Lost | TakenBack | Left
Event = OfMaster | Stopped

# Effects: actions for the caller


@dataclass(frozen=True, slots=True)
class SayHello:
    master: Master


@dataclass(frozen=True, slots=True)
class SayWelcome:
    master: Master


@dataclass(frozen=True, slots=True)
class SayRefused:
    """``serving``: the masters that the worker serves instead."""

    master: Master
    serving: tuple[Master, ...]


@dataclass(frozen=True, slots=True)
class SayBye:
    master: Master


@dataclass(frozen=True, slots=True)
class SayPeers:
    """Send this worker the current list of peers."""

    master: Master


@dataclass(frozen=True, slots=True)
class AbortRuns:
    """Abort these runs: no one waits for them any more."""

    master: Master
    runs: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class FailRuns:
    """These runs can't go on. ``rank``: the other end of the broken link; None: the worker itself is lost."""

    master: Master
    runs: tuple[int, ...]
    rank: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class DoWithout:
    """These runs go on without the worker."""

    master: Master
    runs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop the link, and everything else that belongs to this master and this worker."""

    master: Master
    reason: str


@dataclass(frozen=True, slots=True)
class End:
    """The last effect: release everything."""


Effect = SayHello | SayWelcome | SayRefused | SayBye | SayPeers | AbortRuns | FailRuns | DoWithout | Forget | End

TRANSITIONS: dict[tuple[Stage, type[OfMaster]], Stage] = {
    (Stage.JOINING, Greeted): Stage.READY,
    (Stage.JOINING, Invited): Stage.JOINING,
    (Stage.JOINING, Welcomed): Stage.READY,
    (Stage.JOINING, Refused): Stage.LOST,
    (Stage.JOINING, Lost): Stage.LOST,
    (Stage.READY, Greeted): Stage.READY,
    (Stage.READY, RunBegun): Stage.BUSY,
    (Stage.READY, LinkBroke): Stage.READY,
    (Stage.READY, Reconnected): Stage.READY,
    (Stage.READY, TakenBack): Stage.READY,
    (Stage.READY, Lost): Stage.LOST,
    (Stage.READY, Left): Stage.JOINING,
    (Stage.BUSY, Greeted): Stage.READY,
    (Stage.BUSY, RunBegun): Stage.BUSY,
    (Stage.BUSY, RunEnded): Stage.READY,  # after the last one
    (Stage.BUSY, LinkBroke): Stage.BUSY,
    (Stage.BUSY, Reconnected): Stage.BUSY,
    (Stage.BUSY, TakenBack): Stage.BUSY,
    (Stage.BUSY, Lost): Stage.LOST,
    (Stage.BUSY, Left): Stage.JOINING,
    (Stage.LOST, Invited): Stage.JOINING,
    (Stage.LOST, Lost): Stage.LOST,
}
"""All other transitions are not allowed. Stopped is always allowed, and nothing else after it."""


def handle(life: Life, event: Event) -> tuple[Life, tuple[Effect, ...]]:
    """The life after an event, and its effects, in order. Pure. Raises LifecycleError for an event that is not
    allowed."""
    if isinstance(event, Stopped):
        return _stop(life, event)
    master = event.master
    service = life.of(master)
    after = TRANSITIONS.get((service.stage, type(event)))
    if after is None:
        raise LifecycleError(f"{type(event).__name__} is not allowed while a worker is {service.stage.value}")
    if master not in life.masters and not isinstance(event, Greeted | Invited):
        raise LifecycleError(f"{type(event).__name__} is not allowed of a master that has neither greeted nor invited")
    effects: tuple[Effect, ...] = ()
    match event:
        case Greeted():
            return _greet(life, event)
        case Left():
            return _leave(life, event)
        case Invited():
            now = Service(after, away=service.away)
            effects = (SayHello(master),)
        case Welcomed():
            now = replace(service, stage=after)
        case Refused():
            now = Service(after, reason=event.reason, refused=True, away=True)
            effects = (Forget(master, event.reason),)
        case Lost():
            if service.stage is Stage.LOST:
                return life, ()  # the first reason is kept
            now = Service(after, reason=event.reason, away=True)
            effects = _without(master, service, event.reason)
        case RunBegun():
            if service.carries(event.flight.run):
                raise LifecycleError(f"run {event.flight.run} has already started")
            now = replace(service, stage=after, flights=(*service.flights, event.flight))
        case RunEnded():
            if not service.carries(event.run):
                raise LifecycleError(f"run {event.run} is not in flight")
            left = tuple(flight for flight in service.flights if flight.run != event.run)
            reconnects = 0 if event.well else service.reconnects
            now = replace(service, stage=Stage.BUSY if left else after, flights=left, reconnects=reconnects)
        case LinkBroke():
            now = service
            runs = tuple(flight.run for flight in service.flights if event.rank in flight.partners)
            effects = (FailRuns(master, runs, event.rank, event.reason),) if runs else ()
        case Reconnected():
            now = replace(service, reconnects=service.reconnects + 1)
            effects = (SayPeers(master),)
        case TakenBack():
            if not service.away:
                raise LifecycleError("a worker that was not away can't rejoin")
            now = replace(service, away=False)
    return replace(life, masters={**life.masters, master: now}), effects


def _greet(life: Life, event: Greeted) -> tuple[Life, tuple[Effect, ...]]:
    """The worker serves a new master if it has a free place, that of a lost one, or the master's own earlier place."""
    over = [master for master in life.masters if master == event.master or master in event.gone]
    others = {master: service for master, service in life.masters.items() if master not in over}
    served = tuple(master for master, service in others.items() if service.joined)
    if len(served) >= life.most:
        return life, (SayRefused(event.master, served),)
    effects = [effect for master in over for effect in _parting(master, life.masters[master], "its master is lost")]
    term = life.terms + 1
    masters = {**others, event.master: Service(Stage.READY, term)}
    return replace(life, masters=masters, terms=term), (*effects, SayWelcome(event.master))


def _leave(life: Life, event: Left) -> tuple[Life, tuple[Effect, ...]]:
    effects = _parting(event.master, life.masters[event.master], event.reason)
    others = {master: service for master, service in life.masters.items() if master != event.master}
    if life.once and not any(service.joined for service in others.values()):
        return replace(life, masters={}, stopped=True, reason=event.reason), (*effects, End())
    return replace(life, masters=others), effects


def _stop(life: Life, event: Stopped) -> tuple[Life, tuple[Effect, ...]]:
    if life.stopped:
        return life, ()
    effects: list[Effect] = []
    for master, service in life.masters.items():
        if service.joined:
            effects += [*_aborted(master, service, event.reason), SayBye(master)]
    return replace(life, masters={}, stopped=True, reason=event.reason), (*effects, End())


def _parting(master: Master, service: Service, reason: str) -> tuple[Effect, ...]:
    if service.stage is Stage.LOST:
        return ()  # it is already dropped
    return (*_aborted(master, service, reason), Forget(master, reason), SayBye(master))


def _aborted(master: Master, service: Service, reason: str) -> tuple[Effect, ...]:
    runs = tuple(flight.run for flight in service.flights)
    return (AbortRuns(master, runs, reason),) if runs else ()


def _without(master: Master, service: Service, reason: str) -> tuple[Effect, ...]:
    """A worker is lost: drop it, fail the runs that need it, and continue the others."""
    needed = tuple(flight.run for flight in service.flights if not flight.expendable)
    others = tuple(flight.run for flight in service.flights if flight.expendable)
    effects: list[Effect] = [Forget(master, reason)]
    if needed:
        effects.append(FailRuns(master, needed, None, reason))
    if others:
        effects.append(DoWithout(master, others))
    return tuple(effects)
