"""A worker may be killed before the first inference, at any moment: the others do its part, or one sentence says why not."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from fogconv.cluster.connect import connect
from fogconv.errors import ConnectError
from fogconv.hardware.topology import Topology
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.engine import Engine
from fogconv.runtime.run_options import RunOptions
from tests.cluster.cluster_of import eventually
from tests.cluster.fault_cluster import assert_right, image, network
from tests.cluster.launch import free_port, process, wait_until_listening
from tests.cluster.worker.dying_at import MOMENTS

pytestmark = pytest.mark.alone

LOADING = ("asked to load", "sent weights", "binding", "compiling")


class Started:
    """Three worker processes, of which the second is killed at its moment."""

    def __init__(self, stack: contextlib.ExitStack, moment: str) -> None:
        self._stack = stack
        ports = [free_port() for _ in range(3)]
        self.addresses = [f"tcp://127.0.0.1:{port}" for port in ports]
        whole = ("fogconv.cli.commands.worker", "--bind")
        self.processes = [
            self.start(number, *(("tests.cluster.worker.dying_at", moment) if number == 1 else whole)) for number in range(3)
        ]
        for port in ports:
            wait_until_listening(port)

    def start(self, number: int, *program: str) -> subprocess.Popen[str]:
        return self._stack.enter_context(process(sys.executable, "-m", *program, self.addresses[number]))


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as opened:
        yield opened


def engine_of(session: object) -> Engine:
    topology = Topology.uniform(4, 1e9, 1e10, 1e-6, copy_s_per_byte=1e-11, step_s=1e-7)
    return Engine(network(), session, topology, PlanOptions("rows", threshold=0.0), RunOptions(adapt=False))  # type: ignore[arg-type]


@pytest.mark.parametrize("moment", LOADING)
def test_who_is_killed_while_it_gets_ready_is_done_without(moment: str, stack: contextlib.ExitStack) -> None:
    started = Started(stack, moment)
    session = stack.enter_context(connect(started.addresses, connect_timeout_s=60.0, timeout_s=60.0))
    engine = engine_of(session)
    inference = engine.run(image())
    assert_right(inference.output)
    assert engine.ranks == (0, 1, 3), engine.events
    assert started.processes[1].wait(60.0) == -9
    assert any("worker 2" in event and "lost" in event for event in engine.events), engine.events
    # Another process under its address is one of them again.
    started.processes[1] = started.start(1, "fogconv.cli.commands.worker", "--bind")

    def part() -> bool:
        assert_right(engine.run(image()).output)
        return 2 in engine.ranks

    eventually(part, 60.0)


@pytest.mark.parametrize("moment", ["greeted", "welcomed"])
def test_who_is_killed_while_it_joins_ends_the_start_in_one_sentence_or_is_done_without(
    moment: str, stack: contextlib.ExitStack
) -> None:
    started = Started(stack, moment)
    try:
        session = stack.enter_context(connect(started.addresses, connect_timeout_s=10.0, timeout_s=60.0))
    except ConnectError as error:
        assert str(error).startswith(f"worker 2 at {started.addresses[1]} did not answer within ")
        assert "\n" not in str(error)
        # The two others are free for the next master, which goes without.
        others = [started.addresses[0], started.addresses[2]]
        with connect(others, connect_timeout_s=60.0) as again:
            assert [info.rank for info in again.workers] == [1, 2]
    else:
        engine = engine_of(session)
        assert_right(engine.run(image()).output)
        assert engine.ranks == (0, 1, 3)
    assert started.processes[1].wait(60.0) == -9


def test_every_moment_is_tried() -> None:
    assert set(MOMENTS) == {*LOADING, "greeted", "welcomed"}
