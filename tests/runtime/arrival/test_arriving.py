"""Arriving: answers before all weights are there, each equal to the last; losses and refusals on the way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from fogconv.cluster.connect import connect
from fogconv.cluster.session.session import Session
from fogconv.errors import WorkerMemoryError
from fogconv.hardware.topology import Topology
from fogconv.ir.layout import MASTER
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.engine import Engine
from fogconv.runtime.run_options import RunOptions
from tests import seeded_models as models
from tests.matrix import image
from tests.runtime.arrival.test_increments import slow_master

pytestmark = pytest.mark.alone

NET, SIZE = "squeezenet1_1", 64
EARLY = RunOptions(early=True, threads=1)
OFFLOAD = PlanOptions("offload")


class Gate:
    """Lets loads pass one at a time; ``refuse``: with an error."""

    def __init__(self, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
        self._load, self._turns = session.load, threading.Semaphore(1)
        self.refusal: Exception | None = None
        self.loads: list[int] = []
        monkeypatch.setattr(session, "load", self.load)

    def load(self, *arguments: Any, **keywords: Any) -> Any:
        assert self._turns.acquire(timeout=60)
        if self.refusal is not None:
            raise self.refusal
        loaded = self._load(*arguments, **keywords)
        self.loads.append(loaded.number)
        return loaded

    def open(self, times: int = 1) -> None:
        self._turns.release(times)


@pytest.fixture
def session() -> Iterator[Session]:
    with connect("inproc://1", threads=1) as found:
        yield found


def topology() -> Topology:
    return slow_master(20e6)


def until(condition: Any) -> None:
    event = threading.Event()
    for _ in range(600):
        if condition():
            return
        event.wait(0.1)
    raise AssertionError("it did not happen")


def test_answers_come_before_the_weights_and_the_plan_changes_as_they_land(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(session, monkeypatch)
    graph, x = models.graph(NET, SIZE), image(NET, SIZE)
    engine = Engine(graph, session, topology(), OFFLOAD, EARLY)
    outputs, seconds = [], []
    first = engine.run(x)
    assert first.plan.active_ranks == {MASTER} and not engine.all_there
    outputs.append(first.output)
    while not engine.all_there:
        before = len(gate.loads)
        gate.open()
        until(lambda before=before: engine.all_there or len(gate.loads) > before)
        until(lambda: engine.all_there or engine._arriving._left_bytes == 0)  # type: ignore[union-attr]
        done = engine.run(x)
        outputs.append(done.output)
        seconds.append(done.plan.predicted_s)
    assert len(set(seconds)) > 1
    until(lambda: engine.all_there)
    last = engine.run(x)
    assert last.plan.active_ranks == {MASTER, 1} and engine._arriving is None
    assert [each.number for each in (engine.loaded,)] == gate.loads[-1:]
    assert list(session._loaded) == gate.loads[-1:], "nothing else stays loaded"
    for output in outputs:
        np.testing.assert_allclose(output, last.output, rtol=1e-5, atol=1e-5 * float(np.abs(last.output).max()))
    assert seconds == sorted(seconds, reverse=True)
    engine.close()


def test_while_weights_are_on_their_way_the_master_alone_may_be_sooner(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(session, monkeypatch)
    gate.open()
    engine = Engine(models.graph(NET, SIZE), session, topology(), OFFLOAD, EARLY)
    arriving = engine._arriving
    assert arriving is not None
    until(lambda: len(arriving._landed) == 2)
    home, newest = arriving._landed
    arriving._left_bytes = 0
    assert arriving.choose()[0] is newest
    arriving._left_bytes = 1 << 40
    assert arriving.choose()[0] is home
    gate.open(100)
    until(lambda: arriving.over)
    engine.close()


def test_a_worker_without_room_for_the_rest_keeps_what_it_has(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(session, monkeypatch)
    gate.open()
    engine = Engine(models.graph(NET, SIZE), session, topology(), OFFLOAD, EARLY)
    until(lambda: len(gate.loads) == 2)
    gate.refusal = WorkerMemoryError("no room", 1)
    gate.open()
    until(lambda: engine.all_there)
    done = engine.run(image(NET, SIZE))
    assert done.plan.active_ranks == {MASTER, 1}
    assert [each for each in done.events if "no room" in each and "goes on" in each]
    assert not engine.run(image(NET, SIZE)).events
    engine.close()


def test_a_stream_waits_for_all(session: Session) -> None:
    engine = Engine(models.graph(NET, SIZE), session, topology(), OFFLOAD, EARLY)
    x = image(NET, SIZE)
    found = list(engine.stream([x, x]))
    assert len(found) == 2 and engine.all_there and engine.plan.active_ranks == {MASTER, 1}
    engine.close()


def test_a_loss_on_the_way_leaves_the_master_alone() -> None:
    """The first increment lands; then the worker is gone."""
    from fogconv.cluster.executor.executors import executor
    from tests.cluster.cluster_of import InprocCluster

    with ExitStack() as stack:
        cluster = InprocCluster(1, executor())
        stack.callback(cluster.close)
        session = cluster.session(local=None)
        engine = Engine(models.graph(NET, SIZE), session, topology(), OFFLOAD, EARLY)
        x = image(NET, SIZE)
        before = engine.run(x).output
        until(lambda: engine.all_there)
        cluster.kill(1)
        after = engine.run(x)
        np.testing.assert_allclose(after.output, before, rtol=1e-5, atol=1e-5 * float(np.abs(before).max()))
        assert after.plan.active_ranks == {MASTER}
