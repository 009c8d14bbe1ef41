"""Runs that overlap on one worker: the oldest computes, and the next one while that waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fogconv.cluster.worker.scheduling.turns import Turns
from fogconv.ir import steps as ir
from fogconv.ir.geometry import Region
from fogconv.ir.program import Program
from tests.cluster.fault_cluster import FaultCluster

pytestmark = pytest.mark.alone

PIXEL = Region.whole(16, 1, 1)


def test_the_oldest_that_waits_is_next() -> None:
    turns, order = Turns(), []
    turns.take(9)

    def wait(run: int) -> None:
        turns.take(run)
        order.append(run)
        turns.give()

    threads = [threading.Thread(target=wait, args=(run,)) for run in (7, 3, 5)]
    for thread in threads:
        thread.start()
    while len(turns._waiting) < 3:
        pass
    turns.give()
    for thread in threads:
        thread.join()
    assert order == [3, 5, 7]


def test_a_younger_run_lets_an_older_one_go_first_and_only_that() -> None:
    turns, order = Turns(), []
    turns.take(5)
    turns.let_older(5)  # none waits

    def older() -> None:
        turns.take(2)
        order.append(2)
        turns.give()

    thread = threading.Thread(target=older)
    thread.start()
    while not turns._waiting:
        pass
    turns.let_older(5)
    order.append(5)
    turns.give()
    thread.join()
    assert order == [2, 5]


@pytest.fixture
def cluster() -> Iterator[FaultCluster]:
    with FaultCluster(2) as cluster:
        yield cluster


def relay(held: int) -> list[Program]:
    """Rank 1 gets a pixel from the master and gives it on to rank 2, which returns it; with ``held``, rank 1 first waits for
    one of rank 2, which never comes."""
    buffers = (ir.Buffer("x", PIXEL), ir.Buffer("y", PIXEL))

    def program(rank: int, *steps: Any) -> Program:
        return Program(rank, 3, 1, ("layer",), buffers, steps, {})

    waits = [ir.Recv(0, 1, PIXEL, 2, 9)] * held
    return [
        program(
            0, ir.Input(0, 0, 0, PIXEL), ir.Send(0, 0, PIXEL, 1, 1), ir.Recv(0, 1, PIXEL, 2, 3), ir.Output(0, 0, 1, PIXEL)
        ),
        program(1, *waits, ir.Recv(0, 0, PIXEL, 0, 1), ir.Send(0, 0, PIXEL, 2, 2)),
        program(2, ir.Recv(0, 0, PIXEL, 1, 2), ir.Send(0, 0, PIXEL, 0, 3)),
    ]


def pixel(value: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.full((1, 16, 1, 1), value, np.float32)


def test_a_run_that_waits_holds_up_no_other(cluster: FaultCluster) -> None:
    """The first one waits for a message that no rank sends, and the second one passes it."""
    session = cluster.session
    stuck, free = session.load(relay(1), {}), session.load(relay(0), {})
    first = session.submit(stuck, [pixel(1.0)])
    for value in (2.0, 3.0):
        assert (session.run(free, [pixel(value)]).outputs[0] == value).all()
    assert not first.done()


def test_frames_that_share_a_workers_program_are_right(cluster: FaultCluster) -> None:
    """Messages leave as copies: the next run uses the buffers before they have."""
    session = cluster.session
    one = session.load(relay(0), {}, runs=8)
    slots = [one, *(session.again(one, {}) for _ in range(7))]
    for _ in range(5):
        flights = [session.submit(slot, [pixel(value)]) for value, slot in enumerate(slots)]
        for value, flight in enumerate(flights):
            assert (flight.result().outputs[0] == value).all()
    for slot in slots[:-1]:
        session.unload(slot)
    assert (session.run(slots[-1], [pixel(4.0)]).outputs[0] == 4.0).all(), "the workers keep it for the last one"
