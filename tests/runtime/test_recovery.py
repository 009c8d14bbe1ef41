"""A worker may be lost at any moment, and come back: every answer is right, none is missing, and somebody says so."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fogconv.cluster.worker.program_loader as program_loader
from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.session.loaded_program import Loaded
from fogconv.cluster.transport.endpoint import Loss
from fogconv.errors import KernelError, PlannerError, WorkerFailedError, WorkerMemoryError
from fogconv.ir.memory.footprint import PROCESS_BYTES, footprint
from fogconv.ir.program import Program
from fogconv.planning.memory import needed_bytes
from fogconv.planning.schemes import ONE_FRAME, Scheme
from fogconv.runtime.membership import after_loss, next_members, over, rehearsals
from tests.cluster.cluster_of import eventually
from tests.cluster.fault_cluster import FaultCluster, Gate, assert_right, image, network

pytestmark = pytest.mark.alone

member_sets = st.sets(st.integers(1, 9)).map(lambda workers: (0, *sorted(workers)))
some = st.frozensets(st.integers(1, 9))


@settings(deadline=None)
@given(member_sets, some, some)
def test_the_next_crew_is_who_is_there_and_was_there_or_came(
    members: tuple[int, ...], present: frozenset[int], returned: frozenset[int]
) -> None:
    turn = next_members(members, present, returned)
    assert turn.members == tuple(sorted({0} | ((set(members) | returned) & present)))
    # Whoever returned holds no programs, even if nobody missed it.
    assert turn.changed == bool((returned & present) or (set(members) - {0} - present))
    assert bool(turn.events) == turn.changed


@settings(deadline=None)
@given(member_sets, some)
def test_after_a_loss_the_others_run_again_or_it_was_no_loss(members: tuple[int, ...], present: frozenset[int]) -> None:
    turn = after_loss(members, present, "worker 3 is lost")
    if set(members) - {0} <= present:
        assert turn is None
    else:
        assert turn is not None
        assert turn.members == (0, *sorted((set(members) - {0}) & present))
        assert turn.events[0].startswith("worker 3 is lost; ")
        assert over(turn.members) in turn.events[0]


@settings(deadline=None)
@given(member_sets)
def test_rehearsals_are_every_single_loss_and_the_way_down_to_the_master(members: tuple[int, ...]) -> None:
    played = rehearsals(members)
    assert len(set(played)) == len(played)
    for rank in members[1:]:
        assert tuple(other for other in members if other != rank) in played
    assert {len(one) for one in played} == set(range(1, len(members)))


def test_crews_read_well() -> None:
    assert [over((0, *range(1, n + 1))) for n in range(3)] == ["the master alone", "1 worker", "2 workers"]
    assert "worker 2 was lost between" in next_members((0, 1, 2), {1}).events[0]
    assert "workers 1, 2 rejoined" in next_members((0,), {1, 2}, {1, 2}).events[0]


@pytest.fixture
def cluster() -> Iterator[FaultCluster]:
    with FaultCluster(3) as cluster:
        yield cluster


@pytest.mark.parametrize("scheme", [*ONE_FRAME, Scheme.PIPELINE])
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
            cluster.take_back(rank, engine)
            assert engine.ranks == (0, 1, 2, 3)


@pytest.mark.parametrize("scheme", [*ONE_FRAME, Scheme.PIPELINE])
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
        return any("worker 2 rejoined; re-planned over 3 workers" in event for event in inference.events)

    eventually(returned)
    assert engine.ranks == (0, 1, 2, 3)
    assert 2 in engine.plan.active_ranks


def test_who_gets_ready_holds_up_nobody(cluster: FaultCluster) -> None:
    engine = cluster.engine("rows")
    cluster.cut(2)
    engine.run(image())
    gate = Gate()
    cluster.restart(2, gate)
    eventually(lambda: not engine.run(image()).events and gate.reached.is_set())
    for _ in range(3):
        inference = engine.run(image())
        assert_right(inference.output)
        assert not inference.events and engine.ranks == (0, 1, 3)
    gate.open.set()
    eventually(lambda: any("worker 2 rejoined" in event for event in engine.run(image()).events))
    assert engine.ranks == (0, 1, 2, 3)
    assert_right(engine.run(image()).output)


def test_who_comes_back_and_falls_silent_holds_up_nobody(cluster: FaultCluster) -> None:
    engine = cluster.engine("rows")
    cluster.cut(2)
    engine.run(image())
    said: list[int] = []

    def silent_after_its_welcome(origin: str, to: str, number: int) -> bool:
        if origin == "worker/2":
            said.append(number)
        return origin == "worker/2" and len(said) > 1

    cluster.hub.strike = silent_after_its_welcome
    cluster.restart(2)
    eventually(lambda: not engine.run(image()).events and len(said) > 1)
    for _ in range(3):
        inference = engine.run(image())
        assert_right(inference.output)
        assert not inference.events and engine.ranks == (0, 1, 3)
    cluster.cut(2)
    cluster.hub.strike = lambda *_: False
    cluster.take_back(2, engine)


def test_nothing_is_left_to_ship_when_a_worker_enters_the_crew(cluster: FaultCluster) -> None:
    engine = cluster.engine("star")
    cluster.cut(2)
    engine.run(image())
    cluster.take_back(2, engine)
    assert engine.loaded.shipped_bytes == {1: 0, 2: 0, 3: 0}
    assert len(cluster.alive["worker/2"][0].loader.store) > 0


def test_who_comes_back_with_what_it_held_is_shipped_nothing(cluster: FaultCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cable was out for a moment; the process is the same."""
    engine = cluster.engine("star")
    loads: list[Loaded] = []
    load = cluster.session.load

    def noted(*arguments: Any, **options: Any) -> Loaded:
        loads.append(load(*arguments, **options))
        return loads[-1]

    monkeypatch.setattr(cluster.session, "load", noted)
    cluster.hub._endpoints["master"]._deliver(Loss("worker/2", "its cable was out"))
    eventually(lambda: any("worker 2 rejoined" in event for event in engine.run(image()).events))
    assert any(set(loaded.programs) == {2} for loaded in loads), "it got ready by itself"
    assert all(loaded.shipped_bytes.get(2, 0) == 0 for loaded in loads)


def test_who_gets_ready_gets_ready_for_losses_too_where_that_is_wished(cluster: FaultCluster) -> None:
    engine = cluster.engine("rows", rehearse=True)
    cluster.cut(2)
    engine.run(image())
    gate = Gate()
    gate.open.set()
    cluster.restart(2, gate)
    eventually(lambda: bool(engine.run(image()).events))
    # All four; without 1; without 3; then the members itself. (A program's ranks are numbered up to the members's last.)
    assert gate.built == [4, 4, 3, 4]


def test_who_is_lost_again_while_getting_ready_is_waited_for_again(cluster: FaultCluster) -> None:
    engine = cluster.engine("rows")
    cluster.cut(2)
    engine.run(image())
    gate = Gate()
    cluster.restart(2, gate)
    eventually(lambda: not engine.run(image()).events and gate.reached.is_set())
    cluster.cut(2)
    for _ in range(2):
        inference = engine.run(image())
        assert_right(inference.output)
        assert not inference.events
    gate.open.set()
    cluster.take_back(2, engine)
    assert engine.ranks == (0, 1, 2, 3)


def test_who_is_lost_and_back_between_two_looks_starts_from_the_beginning(cluster: FaultCluster) -> None:
    """Gone and there again before anybody asked it anything: both of members and of those that get ready."""
    engine = cluster.engine("rows")
    cluster.cut(3)
    engine.run(image())
    gate = Gate()
    cluster.restart(3, gate)
    eventually(lambda: not engine.run(image()).events and gate.reached.is_set())
    cluster.cut(3)
    cluster.restart(3)
    cluster.cut(1)
    cluster.restart(1)
    gate.open.set()

    def whole() -> bool:
        assert_right(engine.run(image()).output)
        return engine.ranks == (0, 1, 2, 3)

    eventually(whole)
    assert sum("worker 1 was lost between" in event for event in engine.events) == 1
    assert sum("rejoined" in event for event in engine.events) <= 2


def test_when_all_others_are_lost_meanwhile_the_master_goes_on_and_takes_it_back(cluster: FaultCluster) -> None:
    engine = cluster.engine("rows")
    cluster.cut(2)
    engine.run(image())
    gate = Gate()
    cluster.restart(2, gate)
    eventually(lambda: not engine.run(image()).events and gate.reached.is_set())
    cluster.cut(1)
    cluster.cut_at(3, 2)
    assert_right(engine.run(image()).output)
    cluster.hub.strike = lambda *_: False
    assert engine.ranks == (0,)
    gate.open.set()
    eventually(lambda: any("worker 2 rejoined" in event for event in engine.run(image()).events))
    assert_right(engine.run(image()).output)
    assert engine.ranks == (0, 2)


def test_who_comes_back_unfit_is_named_and_left_out_until_it_comes_again(cluster: FaultCluster) -> None:
    engine = cluster.engine("rows")
    cluster.cut(2)
    engine.run(image())

    def unfit(*_: object, **__: object) -> object:
        raise KernelError("no kernel fits this device")

    cluster.restart(2, unfit)
    told: list[str] = []
    eventually(lambda: bool(told.extend(engine.run(image()).events)) or bool(told))
    assert len(told) == 1
    assert "worker 2 came back, but can't take part" in told[0] and "no kernel fits this device" in told[0]
    assert told[0] in engine.events
    assert not engine.run(image()).events
    cluster.cut(2)
    cluster.take_back(2, engine)
    assert engine.ranks == (0, 1, 2, 3)


def test_a_rehearsed_loss_ships_nothing(cluster: FaultCluster) -> None:
    engine = cluster.engine("star", rehearse=True)
    cluster.cut_at(2, 2)
    assert_right(engine.run(image()).output)
    assert sum(engine.loaded.shipped_bytes.values()) == 0
    assert engine.ranks == (0, 1, 3)


@pytest.mark.parametrize("scheme", ["star", "rows", "tiles"])
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
    assert any("rejoined" in event for event in engine.events)


@pytest.mark.parametrize("rehearse", [False, True])
def test_who_refuses_its_part_for_want_of_memory_is_given_less(cluster: FaultCluster, rehearse: bool) -> None:
    asked: list[int] = []

    def weight_bytes(program: Program) -> int:
        return sum(4 * math.prod(shape) for shape in program.weights.values())

    def check(program: Program, missing: set[str]) -> None:
        asked.append(weight_bytes(program))
        if asked[-1] > 0.6 * asked[0]:
            raise WorkerMemoryError(f"the shard needs {asked[-1]} B, but {0.6 * asked[0]:.0f} B are left")

    cluster.alive["worker/2"][0].loader._check_memory = check  # type: ignore[method-assign]
    engine = cluster.engine("auto", rehearse=rehearse)
    inference = engine.run(image())
    assert_right(inference.output)
    assert engine.ranks == (0, 1, 2, 3)
    assert asked[0] > 0 and weight_bytes(engine.programs[2]) <= 0.6 * asked[0]
    assert any("worker 2" in event and "re-planned with less for it" in event for event in engine.events)


@pytest.mark.parametrize("scheme", ["auto", "depth"])
def test_who_runs_out_of_memory_while_it_binds_is_given_less(scheme: str) -> None:
    built: list[int] = []

    def build(program: Program, weights: Any, **options: Any) -> Executable:
        if program.rank == 2:
            built.append(footprint(program).total)
            if built[-1] > 0.6 * built[0]:
                raise MemoryError
        return Executable(program, weights, **options)

    with FaultCluster(3, build=build) as cluster:
        engine = cluster.engine(scheme)
        assert_right(engine.run(image()).output)
        assert engine.ranks == (0, 1, 2, 3)
        assert built and footprint(engine.programs[2]).total <= 0.6 * built[0]
        assert any("worker 2" in event and "out of memory" in event for event in engine.events)


@pytest.mark.parametrize("scheme", ["auto", "depth", "rows", "tiles", "star"])
def test_a_plan_that_fits_is_refused_by_no_worker_and_one_that_does_not_by_the_planner(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program_loader, "process_bytes", lambda: 0)  # this process holds torch, which no worker does
    with FaultCluster(3) as free:
        engine = free.engine(scheme)
        most = max(needed_bytes(network(), engine.plan, engine.topology)[1:])
    for limit, fits in ((PROCESS_BYTES + most, True), (PROCESS_BYTES + most // 2, None), (PROCESS_BYTES, None)):
        with FaultCluster(3, memory_limit_bytes=limit) as cluster:
            try:
                engine = cluster.engine(scheme)
            except PlannerError as error:
                assert fits is None
                assert "are for the process itself" in str(error)
            else:
                assert not engine.events, "no worker refused anything"
                assert_right(engine.run(image()).output)


def test_a_loss_ships_no_weights_again_that_the_others_have() -> None:
    """By rows every rank has whole weights: after a loss nothing travels, though plain ones went when they were packed."""
    with FaultCluster(3) as cluster:
        engine = cluster.engine("rows")
        assert_right(engine.run(image()).output)
        assert sum(engine.loaded.shipped_bytes.values()) > 0
        cluster.cut(3)
        assert_right(engine.run(image()).output)
        assert engine.ranks == (0, 1, 2)
        assert sum(engine.loaded.shipped_bytes.values()) == 0


def test_who_has_no_memory_at_all_gets_nothing_and_is_named_with_both_figures(cluster: FaultCluster) -> None:
    plan = cluster.engine("star", master_computes=False).plan

    def check(program: Program, missing: set[str]) -> None:
        raise WorkerMemoryError("the shard needs 7 MB, but 0 MB are left")

    cluster.alive["worker/2"][0].loader._check_memory = check  # type: ignore[method-assign]
    engine = cluster.engine("star", master_computes=False)
    assert_right(engine.run(image()).output)
    assert not engine.programs[2].steps
    assert any("worker 2" in event and "needs 7 MB, but 0 MB" in event for event in engine.events)
    with pytest.raises(WorkerMemoryError, match=r"worker 2.*needs 7 MB, but 0 MB"):
        cluster.engine(plan=plan)


def test_who_is_lost_before_the_first_inference_is_named_and_taken_back(cluster: FaultCluster) -> None:
    cluster.cut(2)
    eventually(lambda: cluster.session.refresh() == {2})
    engine = cluster.engine("auto")
    assert engine.ranks == (0, 1, 3)
    assert list(engine.events) == ["worker 2 was lost before the first inference; planned over 2 workers"]
    assert_right(engine.run(image()).output)
    cluster.take_back(2, engine)
    assert engine.ranks == (0, 1, 2, 3)


def test_an_error_that_is_no_loss_is_not_run_again(cluster: FaultCluster) -> None:
    engine = cluster.engine("rows")
    cluster.alive["worker/1"][0]._masters.sessions["master"].programs.clear()
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


def test_a_worker_that_learns_late_of_a_loss_spoils_no_run_without_the_lost_one(cluster: FaultCluster) -> None:
    """Links' heartbeats expire one after the other: the master may have re-planned before another worker knows."""
    engine = cluster.engine("rows")
    assert_right(engine.run(image()).output)
    hub, route = cluster.hub, cluster.hub._route
    late: list[str] = []

    def tell_late(origin: str, to: str, frames: Sequence[Frame]) -> None:
        rerun = (origin, to) == ("master", "worker/2") and 3 not in engine.ranks
        if rerun and not late and isinstance(codec.decode(frames)[0], m.Data):
            late.append(to)
            second._deliver(Loss("worker/3", "no heartbeat"))
        route(origin, to, frames)

    hub._route = tell_late  # type: ignore[method-assign]
    second = hub._endpoints["worker/2"]
    deliver = second._deliver
    second._deliver = lambda event: None if isinstance(event, Loss) else deliver(event)  # type: ignore[method-assign]
    cluster.cut(3)
    second._deliver = deliver  # type: ignore[method-assign]
    inference = engine.run(image())
    assert late
    assert_right(inference.output)
    assert len(inference.events) == 1 and "worker 3 was lost between" in inference.events[0]


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
