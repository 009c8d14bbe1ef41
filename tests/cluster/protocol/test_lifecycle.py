"""A worker's life: the table, and ``handle`` driven by events in any order, with several masters at once."""

from __future__ import annotations

import copy
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fogconv.cluster.protocol.lifecycle import (
    TRANSITIONS,
    AbortRuns,
    DoWithout,
    Effect,
    End,
    Event,
    FailRuns,
    Flight,
    Forget,
    Greeted,
    Invited,
    Left,
    Life,
    LifecycleError,
    LinkBroke,
    Lost,
    OfMaster,
    Reconnected,
    Refused,
    RunBegun,
    RunEnded,
    SayBye,
    SayHello,
    SayPeers,
    SayRefused,
    SayWelcome,
    Service,
    Stage,
    Stopped,
    TakenBack,
    Welcomed,
    handle,
)

EXAMPLES: tuple[OfMaster, ...] = (
    Greeted("m"),
    Invited("m"),
    Welcomed("m"),
    Refused("m", "no"),
    RunBegun("m", Flight(2)),
    RunEnded("m", 1),
    LinkBroke("m", 3, "cut"),
    Reconnected("m"),
    Lost("m", "gone"),
    TakenBack("m"),
    Left("m", "left"),
)
"""One event of each kind."""


def example(stage: Stage) -> Life:
    """A life that is in this stage with the master "m", was away before, and has one run in flight where it is busy."""
    if stage is Stage.STOPPED:
        return Life(stopped=True, reason="the end")
    flights = (Flight(1, frozenset({3})),) if stage is Stage.BUSY else ()
    return Life(masters={"m": Service(stage, 1, flights, away=True)}, terms=1)


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_the_table_decides(stage: Stage, event: OfMaster) -> None:
    life = example(stage)
    before = copy.deepcopy(life)
    after = TRANSITIONS.get((stage, type(event)))
    if after is None:
        with pytest.raises(LifecycleError, match=f"{type(event).__name__} is not allowed while a worker is {stage.value}"):
            handle(life, event)
    else:
        assert handle(life, event)[0].of("m").stage is after
    assert life == before


def test_the_examples_are_all_kinds_of_events() -> None:
    assert {type(event) for event in EXAMPLES} == {kind for _, kind in TRANSITIONS}


@pytest.mark.parametrize("stage", Stage)
def test_any_life_can_be_stopped_and_that_is_the_end(stage: Stage) -> None:
    life, effects = handle(example(stage), Stopped("enough"))
    assert life.stage is Stage.STOPPED
    assert (effects == ()) == (stage is Stage.STOPPED)
    assert handle(life, Stopped("again")) == (life, ())


def test_a_state_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Life().stopped = True  # type: ignore[misc]


def lived(*events: Event, life: Life | None = None) -> tuple[Life, tuple[Effect, ...]]:
    """The life after events, and the effects of the last."""
    life, effects = life or Life(), ()
    for event in events:
        life, effects = handle(life, event)
    return life, effects


def test_a_worker_is_busy_until_its_last_run_is_over() -> None:
    life, _ = lived(Greeted("m"), RunBegun("m", Flight(1)), RunBegun("m", Flight(2)), RunEnded("m", 1))
    assert life.stage is Stage.BUSY and life.of("m").carries(2) and not life.of("m").carries(1)
    assert handle(life, RunEnded("m", 2))[0].stage is Stage.READY


@pytest.mark.parametrize("event", [RunBegun("m", Flight(1)), RunEnded("m", 2)])
def test_a_run_begins_once_and_ends_only_if_it_began(event: OfMaster) -> None:
    life, _ = lived(Greeted("m"), RunBegun("m", Flight(1)))
    with pytest.raises(LifecycleError, match=r"has already started|not in flight"):
        handle(life, event)


def test_a_worker_serves_as_many_masters_as_it_has_places_for() -> None:
    life, effects = lived(Greeted("a"), Greeted("b"))
    assert effects == (SayRefused("b", ("a",)),) and set(life.masters) == {"a"}
    life, effects = lived(Greeted("a"), Greeted("b"), life=Life(most=2))
    assert effects == (SayWelcome("b"),) and set(life.masters) == {"a", "b"}


def test_a_master_takes_the_place_of_one_that_is_gone() -> None:
    life, effects = lived(Greeted("a"), RunBegun("a", Flight(4)), Greeted("b", frozenset({"a"})))
    reason = "its master is lost"
    assert effects == (AbortRuns("a", (4,), reason), Forget("a", reason), SayBye("a"), SayWelcome("b"))
    assert set(life.masters) == {"b"}


def test_a_master_that_says_hello_again_begins_a_new_term() -> None:
    life, _ = lived(Greeted("a"))
    term = life.of("a").term
    again, effects = handle(life, Greeted("a"))
    assert [type(effect) for effect in effects] == [Forget, SayBye, SayWelcome]
    assert life.serves("a", term) and not again.serves("a", term) and again.serves("a", term + 1)


def test_who_serves_once_stops_when_its_master_leaves() -> None:
    life, effects = lived(Greeted("a"), Left("a", "done"), life=Life(once=True))
    assert life.stage is Stage.STOPPED and effects == (Forget("a", "done"), SayBye("a"), End())
    life, _ = lived(Greeted("a"), Greeted("a"), life=Life(once=True))
    assert life.stage is Stage.READY


def test_a_lost_worker_fails_the_runs_that_need_it_and_no_others() -> None:
    flights = (RunBegun("m", Flight(1)), RunBegun("m", Flight(2, expendable=True)))
    life, effects = lived(Invited("m"), Welcomed("m"), *flights, Lost("m", "cut"))
    assert effects == (Forget("m", "cut"), FailRuns("m", (1,), None, "cut"), DoWithout("m", (2,)))
    assert life.of("m") == Service(Stage.LOST, reason="cut", away=True)
    assert handle(life, Lost("m", "later")) == (life, ())


def test_a_broken_link_fails_the_runs_that_go_over_it_and_no_others() -> None:
    flights = (RunBegun("m", Flight(1, frozenset({2}))), RunBegun("m", Flight(2, frozenset({3}))))
    life, effects = lived(Greeted("m"), *flights, LinkBroke("m", 3, "cut"))
    assert effects == (FailRuns("m", (2,), 3, "cut"),) and life.stage is Stage.BUSY


def test_a_worker_that_comes_back_is_away_until_it_is_taken_back() -> None:
    life, effects = lived(Invited("m"), Welcomed("m"), Lost("m", "cut"), Invited("m"))
    assert effects == (SayHello("m"),) and life.of("m") == Service(away=True)
    life, _ = handle(life, Welcomed("m"))
    assert life.of("m").joined and life.of("m").away
    life, _ = handle(life, TakenBack("m"))
    assert not life.of("m").away
    with pytest.raises(LifecycleError, match="not away"):
        handle(life, TakenBack("m"))


@pytest.mark.parametrize("event", [Welcomed("m"), Refused("m", "no"), Lost("m", "gone")])
def test_who_was_not_invited_can_t_answer(event: OfMaster) -> None:
    with pytest.raises(LifecycleError, match="neither greeted nor invited"):
        handle(Life(), event)


def test_reconnecting_is_counted_until_a_run_goes_well() -> None:
    life, effects = lived(Invited("m"), Welcomed("m"), Reconnected("m"), RunBegun("m", Flight(1)), Reconnected("m"))
    assert effects == (SayPeers("m"),) and life.of("m").reconnects == 2
    assert handle(life, RunEnded("m", 1, well=False))[0].of("m").reconnects == 2
    assert handle(life, RunEnded("m", 1))[0].of("m").reconnects == 0


MASTERS = ("a", "b", "c")
EVENTS: st.SearchStrategy[OfMaster] = st.one_of(
    st.builds(Greeted, st.sampled_from(MASTERS), st.frozensets(st.sampled_from(MASTERS))),
    st.builds(Invited, st.sampled_from(MASTERS)),
    st.builds(Welcomed, st.sampled_from(MASTERS)),
    st.builds(Refused, st.sampled_from(MASTERS), st.just("no")),
    st.builds(
        RunBegun,
        st.sampled_from(MASTERS),
        st.builds(Flight, st.integers(1, 3), st.frozensets(st.integers(1, 3)), st.booleans()),
    ),
    st.builds(RunEnded, st.sampled_from(MASTERS), st.integers(1, 3), st.booleans()),
    st.builds(LinkBroke, st.sampled_from(MASTERS), st.integers(1, 3), st.just("cut")),
    st.builds(Reconnected, st.sampled_from(MASTERS)),
    st.builds(Lost, st.sampled_from(MASTERS), st.just("gone")),
    st.builds(TakenBack, st.sampled_from(MASTERS)),
    st.builds(Left, st.sampled_from(MASTERS), st.just("left")),
)


class WorkersLife(RuleBasedStateMachine):
    """Events of several masters in any order. The machine keeps what the effects alone tell, as a caller would.

    ``links``: who was welcomed, or invited, and not forgotten since. ``runs``: those in flight that nothing was said of.
    """

    @initialize(most=st.integers(1, 3), once=st.booleans())
    def start(self, most: int, once: bool) -> None:
        self.life = Life(most=most, once=once)
        self.links: set[object] = set()
        self.runs: dict[object, dict[int, Flight]] = {master: {} for master in MASTERS}
        self.ended = 0

    @rule(event=EVENTS)
    def happens(self, event: OfMaster) -> None:
        before = copy.deepcopy(self.life)
        stage = before.of(event.master).stage
        others = {master: before.of(master) for master in MASTERS if master != event.master}
        try:
            life, effects = handle(self.life, event)
        except LifecycleError:
            assert self.life == before
            allowed = (stage, type(event)) in TRANSITIONS and event.master in before.masters
            assert not allowed or isinstance(event, RunBegun | RunEnded | TakenBack)
            return
        assert self.life == before, "handle is pure"
        assert handle(self.life, event) == (life, effects), "the same event gives the same"
        refused = any(isinstance(effect, SayRefused) for effect in effects)
        if life.stopped:
            assert life.once and isinstance(event, Left)
        elif not refused and not isinstance(event, RunEnded):
            assert life.of(event.master).stage is TRANSITIONS[stage, type(event)]
        for master, service in others.items():  # no event touches another master's life, but for those it knows are gone
            if not life.stopped and life.of(master) != service:
                assert isinstance(event, Greeted) and master in event.gone
        self.life = life
        self.note(event, effects)

    @rule()
    def stop(self) -> None:
        joined = {master for master in MASTERS if self.life.of(master).joined}
        self.life, effects = handle(self.life, Stopped("enough"))
        assert {effect.master for effect in effects if isinstance(effect, SayBye)} == joined
        assert self.life.stage is Stage.STOPPED
        self.note(None, effects)

    def note(self, event: OfMaster | None, effects: tuple[Effect, ...]) -> None:
        """Do what a caller does."""
        for effect in effects:
            assert not self.ended, "nothing comes after the end"
            match effect:
                case SayWelcome() | SayHello():
                    self.links.add(effect.master)
                case Forget():
                    assert effect.master in self.links
                    self.links.discard(effect.master)
                case AbortRuns() | FailRuns() | DoWithout():
                    assert effect.runs
                    over_link = isinstance(effect, FailRuns) and effect.rank is not None
                    for run in effect.runs:
                        flight = self.runs[effect.master][run]
                        if over_link:  # it ends later, by itself
                            assert isinstance(effect, FailRuns) and effect.rank in flight.partners
                        else:
                            assert isinstance(effect, AbortRuns) or flight.expendable == isinstance(effect, DoWithout)
                            del self.runs[effect.master][run]
                case SayRefused():
                    assert len(effect.serving) >= self.life.most and effect.master not in effect.serving
                case End():
                    self.ended += 1
                    self.links.clear()
        match event:
            case RunBegun():
                self.runs[event.master][event.flight.run] = event.flight
            case RunEnded():
                del self.runs[event.master][event.run]

    @invariant()
    def busy_is_who_has_runs_in_flight(self) -> None:
        for master in MASTERS:
            service = self.life.of(master)
            assert (service.stage is Stage.BUSY) == bool(service.flights)
            assert {flight.run: flight for flight in service.flights} == self.runs[master], "no run ends without a word"
            assert len(service.flights) == len(self.runs[master])

    @invariant()
    def only_the_lost_have_a_reason(self) -> None:
        for service in self.life.masters.values():
            assert bool(service.reason) == (service.stage is Stage.LOST)
            assert service.stage is Stage.LOST or not service.refused
            assert service.away or service.stage is not Stage.LOST

    @invariant()
    def who_is_there_or_asked_has_a_link_and_nobody_else(self) -> None:
        if not self.life.stopped:
            known = {master for master, service in self.life.masters.items() if service.stage is not Stage.LOST}
            assert known == self.links

    @invariant()
    def terms_are_not_used_twice(self) -> None:
        terms = [service.term for service in self.life.masters.values() if service.term]
        assert len(terms) == len(set(terms)) and all(term <= self.life.terms for term in terms)

    @invariant()
    def the_whole_is_the_sum_of_its_masters(self) -> None:
        stages = {self.life.of(master).stage for master in MASTERS}
        if Stage.STOPPED in stages:
            assert self.life.stage is Stage.STOPPED and not self.life.masters and self.ended == 1
        else:
            assert (self.life.stage is Stage.BUSY) == (Stage.BUSY in stages)
            assert (self.life.stage is Stage.JOINING) == stages.isdisjoint({Stage.READY, Stage.BUSY})
            assert replace(self.life, masters={}) == replace(Life(self.life.most, self.life.once), terms=self.life.terms)


WorkersLife.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestWorkersLife = WorkersLife.TestCase
