"""A worker may be lost at any moment, and come back: every answer is right, none is missing, and somebody says so."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.cluster.transport import Loss
from fogconv.errors import WorkerFailedError
from fogconv.recovery import after_loss, muster, over, rehearsals
from tests.cluster.cluster_of import eventually
from tests.fault_cluster import FaultCluster, assert_right, image

SCHEMES = ("star", "rows", "depth", "auto")

crews = st.sets(st.integers(1, 9)).map(lambda workers: (0, *sorted(workers)))
some = st.frozensets(st.integers(1, 9))


@settings(deadline=None)
@given(crews, some, some)
def test_the_next_crew_is_who_is_there_and_was_there_or_came(
    crew: tuple[int, ...], present: frozenset[int], returned: frozenset[int]
) -> None:
    turn = muster(crew, present, returned)
    assert turn.crew == tuple(sorted({0} | ((set(crew) | returned) & present)))
    # Whoever returned holds no programs, even if nobody missed it.
    assert turn.changed == bool((returned & present) or (set(crew) - {0} - present))
    assert bool(turn.events) == turn.changed


@settings(deadline=None)
@given(crews, some)
def test_after_a_loss_the_others_run_again_or_it_was_no_loss(crew: tuple[int, ...], present: frozenset[int]) -> None:
    turn = after_loss(crew, present, "worker 3 is lost")
    if set(crew) - {0} <= present:
        assert turn is None
    else:
        assert turn is not None
        assert turn.crew == (0, *sorted((set(crew) - {0}) & present))
        assert turn.events[0].startswith("worker 3 is lost; ")
        assert over(turn.crew) in turn.events[0]


@settings(deadline=None)
@given(crews)
def test_rehearsals_are_every_single_loss_and_the_way_down_to_the_master(crew: tuple[int, ...]) -> None:
    played = rehearsals(crew)
    assert len(set(played)) == len(played)
    for rank in crew[1:]:
        assert tuple(other for other in crew if other != rank) in played
    assert {len(one) for one in played} == set(range(1, len(crew)))


def test_crews_read_well() -> None:
    assert [over((0, *range(1, n + 1))) for n in range(3)] == ["the master alone", "1 worker", "2 workers"]
    assert "worker 2 was lost between" in muster((0, 1, 2), {1}).events[0]
    assert "workers 1, 2 were taken back" in muster((0,), {1, 2}, {1, 2}).events[0]


@pytest.fixture
def cluster() -> Iterator[FaultCluster]:
    with FaultCluster(3) as cluster:
        yield cluster


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_worker_lost_at_any_message_changes_no_answer(scheme: str) -> None:
    """The cable is pulled before the 1st, 2nd, … message of an inference, until one passes without it mattering."""
    with FaultCluster(3) as cluster:
        engine = cluster.engine(scheme)
        assert_right(engine.run(image()).output)
        begin = cluster.hub.number
        assert_right(engine.run(image()).output)
        messages = cluster.hub.number - begin
        for number in range(1, messages + 1, 1 if messages < 30 else 3):
            rank = 1 + number % 3
            cluster.cut_at(rank, number)
            hit = engine.run(image())
            assert_right(hit.output)
            cluster.hub.strike = lambda *_: False
            if cluster.names[rank - 1] in cluster.alive:  # it was not one of this run's messages
                cluster.cut(rank)
            else:
                assert any("is lost" in event or "was lost" in event for event in hit.events)
            cluster.restart(rank)
            assert_right(engine.run(image()).output)
            cluster.session.rejoin(5.0)
            engine._returned |= {rank}
            assert_right(engine.run(image()).output)
            assert engine.ranks == (0, 1, 2, 3)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_master_alone_finishes_when_all_are_gone(cluster: FaultCluster, scheme: str) -> None:
    engine = cluster.engine(scheme)
    for rank in (2, 1, 3):
        cluster.cut_at(rank, 2)
        inference = engine.run(image())
        assert_right(inference.output)
        assert f"worker {rank}" in inference.events[0] and "lost" in inference.events[0]
    assert engine.ranks == (0,)
    assert "the master alone" in inference.events[-1]


def test_two_workers_lost_in_one_inference_cost_two_plans_at_most(cluster: FaultCluster) -> None:
    engine = cluster.engine("rows")
    at = cluster.hub.number

    def strike(origin: str, to: str, sent: int) -> bool:
        for rank, number in ((1, 3), (3, 12)):
            if sent >= at + number and cluster.names[rank - 1] in cluster.alive:
                cluster.cut(rank)
        return False

    cluster.hub.strike = strike
    inference = engine.run(image())
    assert_right(inference.output)
    assert 1 <= len(inference.events) <= 2
    assert engine.ranks == (0, 2)


def test_a_worker_that_returns_takes_part_again(cluster: FaultCluster) -> None:
    engine = cluster.engine("rows")
    cluster.cut(2)
    without = engine.run(image())
    assert engine.ranks == (0, 1, 3)
    assert "lost between inferences" in without.events[0]
    assert not engine.run(image()).events
    cluster.restart(2)

    def returned() -> bool:
        inference = engine.run(image())
        assert_right(inference.output)
        return any("worker 2 was taken back; planned anew over 3 workers" in event for event in inference.events)

    eventually(returned)
    assert engine.ranks == (0, 1, 2, 3)
    assert 2 in engine.plan.active_ranks


def test_who_stayed_is_shipped_nothing_when_the_old_plan_returns(cluster: FaultCluster) -> None:
    engine = cluster.engine("star")
    cluster.cut(2)
    engine.run(image())
    cluster.restart(2)
    eventually(lambda: bool(engine.run(image()).events))
    shipped = engine.loaded.shipped_bytes
    assert shipped[1] == shipped[3] == 0
    assert shipped[2] > 0  # a new process holds nothing


def test_a_rehearsed_loss_ships_nothing(cluster: FaultCluster) -> None:
    engine = cluster.engine("star", rehearse=True)
    cluster.cut_at(2, 2)
    assert_right(engine.run(image()).output)
    assert sum(engine.loaded.shipped_bytes.values()) == 0
    assert engine.ranks == (0, 1, 3)


@pytest.mark.parametrize("scheme", ["star", "rows"])
@pytest.mark.parametrize("number", [1, 9, 30])
def test_a_stream_loses_no_frame_and_keeps_their_order(cluster: FaultCluster, scheme: str, number: int) -> None:
    engine = cluster.engine(scheme)
    cluster.cut_at(1, number)
    seeds = list(range(8))
    outputs = list(engine.stream(image(seed) for seed in seeds))
    assert len(outputs) == len(seeds)
    for seed, output in zip(seeds, outputs, strict=True):
        assert_right(output, seed)
    assert len(engine.events) == 1
    assert engine.ranks == (0, 2, 3)


def test_a_stream_takes_a_worker_back(cluster: FaultCluster) -> None:
    engine = cluster.engine("rows")
    cluster.cut(3)

    def frames() -> Iterator[int]:
        yield from range(6)
        cluster.restart(3)
        while engine.ranks != (0, 1, 2, 3):
            yield 0
        yield from range(6)

    seeds: list[int] = []

    def images() -> Iterator[object]:
        for seed in frames():
            seeds.append(seed)
            yield image(seed)

    outputs = list(engine.stream(images()))  # type: ignore[arg-type]
    assert len(outputs) == len(seeds)
    for seed, output in zip(seeds, outputs, strict=True):
        assert_right(output, seed)
    assert any("taken back" in event for event in engine.events)


def test_an_error_that_is_no_loss_is_not_run_again(cluster: FaultCluster) -> None:
    engine = cluster.engine("rows")
    cluster.alive["worker/1"][0]._mastery.programs.clear()  # type: ignore[union-attr]
    with pytest.raises(WorkerFailedError, match="no program"):
        engine.run(image())


def test_a_link_between_two_workers_that_breaks_alone_costs_one_more_run(cluster: FaultCluster) -> None:
    engine = cluster.engine("rows")
    struck: list[int] = []

    def strike(origin: str, to: str, number: int) -> bool:
        if (origin, to) == ("worker/1", "worker/2") and not struck:
            struck.append(number)
            cluster.hub._endpoints["worker/1"]._deliver(Loss("worker/2", "the cable between them was pulled"))
            return True
        return False

    cluster.hub.strike = strike
    inference = engine.run(image())
    assert struck
    assert_right(inference.output)
    assert engine.ranks == (0, 1, 2, 3)
    assert "lost its link to rank 2" in inference.events[0] and "ran again" in inference.events[0]
    assert not engine.run(image()).events


def test_what_the_failed_run_held_is_let_go_at_once() -> None:
    """Not when the garbage collector comes round: that are hundreds of megabytes in a larger network."""
    with FaultCluster(3) as cluster:
        engine = cluster.engine("rows")
        assert_right(engine.run(image()).output)
        assert engine.loaded.executable is not None
        held = weakref.ref(engine.loaded.executable)
        gc.collect()
        gc.disable()
        try:
            cluster.cut_at(2, 8)
            assert_right(engine.run(image()).output)
            assert len(engine.ranks) == 3
            assert held() is None
        finally:
            gc.enable()
