"""Streams: frames come out in order, each lane takes what it can, and losses, stalls and early ends lose no frame."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from fogconv.cluster.executor.executable import Executable
from fogconv.ir.program import Program
from fogconv.planning.schemes import STREAMS
from fogconv.runtime import stream as streams
from fogconv.runtime.engine import Engine
from tests.cluster.cluster_of import eventually
from tests.cluster.fault_cluster import FaultCluster, assert_right, image

pytestmark = pytest.mark.alone

SEEDS = range(12)


@pytest.fixture
def cluster() -> Iterator[FaultCluster]:
    with FaultCluster(3) as cluster:
        yield cluster


def assert_all_right(outputs: list[Any], seeds: Any = SEEDS) -> None:
    assert len(outputs) == len(seeds)
    for seed, output in zip(seeds, outputs, strict=True):
        assert_right(output, seed)


@pytest.mark.parametrize("depth", [None, 1, 2, 9])
@pytest.mark.parametrize("scheme", STREAMS)
def test_every_frame_is_right_and_in_its_place(cluster: FaultCluster, scheme: str, depth: int | None) -> None:
    engine = cluster.engine(scheme)
    assert_all_right(list(engine.stream((image(seed) for seed in SEEDS), depth)))
    assert not engine.events
    assert_right(engine.run(image()).output)


def test_several_frames_pass_a_stage_that_several_ranks_share(cluster: FaultCluster) -> None:
    """They exchange rows of each frame, and have the next one when this one is done."""
    rows = cluster.engine("rows").plan
    assert any(len(placement.work) > 1 for placement in rows.placements)
    engine = cluster.engine(plan=replace(rows, in_flight=4, copies=1))
    assert_all_right(list(engine.stream(image(seed) for seed in SEEDS)))
    assert not engine.events


@pytest.mark.parametrize("scheme", STREAMS)
@pytest.mark.parametrize("number", [1, 9, 25])
def test_a_loss_changes_no_answer_and_no_order(cluster: FaultCluster, scheme: str, number: int) -> None:
    engine = cluster.engine(scheme)
    cluster.cut_at(2, number)

    def lost() -> bool:
        """Who is free takes a frame: on a busy machine the master takes most, and few messages are sent."""
        assert_all_right(list(engine.stream(image(seed) for seed in SEEDS)))
        return engine.ranks == (0, 1, 3)

    eventually(lost, 60.0)
    assert any("worker 2" in event for event in engine.events)


@pytest.mark.parametrize("scheme", STREAMS)
def test_the_master_alone_ends_a_stream_that_all_others_leave(cluster: FaultCluster, scheme: str) -> None:
    engine = cluster.engine(scheme)

    def frames() -> Iterator[Any]:
        for seed in SEEDS:
            if seed in (3, 5, 7):
                cluster.cut((seed - 1) // 2)
            yield image(seed)

    assert_all_right(list(engine.stream(frames())))
    assert engine.ranks == (0,)


@pytest.mark.parametrize("scheme", STREAMS)
def test_a_worker_that_returns_takes_frames_again(cluster: FaultCluster, scheme: str) -> None:
    engine = cluster.engine(scheme)
    cluster.cut(3)
    seeds: list[int] = []

    def frames() -> Iterator[Any]:
        for seed in range(4):
            seeds.append(seed)
            yield image(seed)
        cluster.restart(3)
        while engine.ranks != (0, 1, 2, 3):
            seeds.append(0)
            yield image(0)
        seeds.append(1)
        yield image(1)

    outputs = list(engine.stream(frames()))
    assert_all_right(outputs, seeds)
    assert any("rejoined" in event for event in engine.events)


class Held:
    """Builds as the interpreter does; runs of rank 1 wait while it is held."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.runs: Counter[int] = Counter()

    def __call__(self, program: Program, weights: Any, *, threads: int = 1, **_: Any) -> Executable:
        held = self

        class Slow(Executable):
            def run(self, *arguments: Any, **named: Any) -> list[Any]:
                held.runs[program.rank] += 1
                if program.rank == 1:
                    assert held.free.wait(30.0)
                return super().run(*arguments, **named)

        return Slow(program, weights, threads=threads)


def test_frames_go_to_who_is_free_when_one_rank_hangs() -> None:
    """Rank 1 has its two frames while the others take all the rest, and the results wait for it in order."""
    held = Held()
    with FaultCluster(3, build=held) as cluster:
        engine = cluster.engine("replicas")
        frames = 30
        taken = 0

        def source() -> Iterator[Any]:
            nonlocal taken
            for seed in range(frames):
                taken += 1
                if taken == frames - 1:
                    held.free.set()
                yield image(seed)

        outputs = list(engine.stream(source()))
        assert_all_right(outputs, range(frames))
        assert held.runs[1] <= 3
        assert held.runs[1] + held.runs[2] + held.runs[3] < frames, "the master took some"


def test_no_more_frames_are_in_flight_than_asked_for() -> None:
    held = Held()
    with FaultCluster(3, build=held) as cluster:
        engine = cluster.engine("replicas")
        begun: list[int] = []

        def source() -> Iterator[Any]:
            for seed in range(8):
                begun.append(seed)
                yield image(seed)

        reader = engine.stream(source(), 2)
        threading.Timer(0.3, held.free.set).start()
        assert_right(next(reader), 0)
        assert_all_right(list(reader), range(1, 8))
        assert len(begun) == 8


@pytest.mark.parametrize("scheme", [*STREAMS, "rows"])
def test_a_source_that_fails_loses_no_frame_before_it(cluster: FaultCluster, scheme: str) -> None:
    engine = cluster.engine(scheme)

    def source() -> Iterator[Any]:
        for seed in range(5):
            yield image(seed)
        raise OSError("the camera is gone")

    outputs = []
    with pytest.raises(OSError, match="camera"):
        for output in engine.stream(source()):
            outputs.append(output)
    assert_all_right(outputs, range(5))
    assert engine.events == type(engine.events)(
        ["the stream's source ended after 5 frames with OSError; all their results were given"]
    )


@pytest.mark.parametrize("scheme", STREAMS)
def test_a_reader_that_leaves_early_is_reported_and_the_engine_goes_on(cluster: FaultCluster, scheme: str) -> None:
    engine = cluster.engine(scheme)
    reader = engine.stream(image(seed) for seed in SEEDS)
    assert_right(next(reader), 0)
    reader.close()  # type: ignore[attr-defined]
    assert any("closed before its end" in event for event in engine.events)
    assert_all_right(list(engine.stream(image(seed) for seed in SEEDS)))


def test_a_reader_that_stalls_is_reported_and_loses_nothing(cluster: FaultCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STALL_S", 0.5)
    engine = cluster.engine("replicas")
    reader = engine.stream(image(seed) for seed in SEEDS)

    def reported() -> bool:
        return any("the stream's reader took no result for" in event for event in engine.events)

    outputs = []
    for output in reader:
        outputs.append(output)
        if not reported():
            threading.Event().wait(2.0)  # on a busy machine the frames in flight may take longer: then once more
    assert_all_right(outputs)
    assert reported()


def test_an_engine_keeps_its_programs_after_a_stream(cluster: FaultCluster) -> None:
    engine: Engine = cluster.engine("replicas")
    before = engine.lanes
    assert len(before) == 4
    for _ in range(2):
        assert_all_right(list(engine.stream(image(seed) for seed in SEEDS)))
    assert engine.lanes is before
