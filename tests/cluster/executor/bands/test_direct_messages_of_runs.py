"""Whole runs over ZeroMQ, whose messages compiled code sends and receives: results, counts, losses, other threads."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.executor.mailbox import RunMailbox
from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.session.session import Session
from fogconv.cluster.transport.dispatcher import Dispatcher
from fogconv.cluster.transport.endpoint import Arrival, Event
from fogconv.cluster.worker.scheduling.turns import TurnMailbox
from fogconv.errors import WorkerLostError
from fogconv.ir import steps as ir
from fogconv.ir.geometry import Region
from fogconv.ir.program import Program
from tests.cluster.cluster_of import ZeromqCluster, eventually
from tests.cluster.programs import ring
from tests.cluster.transport.zeromq.direct.test_exchange import Pair

pytestmark = pytest.mark.alone

REGION = Region.whole(16, 8, 40)
"""20 KB: other ends on this machine take longer messages by reference."""


def local(program: Any, weights: Any, host: Any) -> Executable:
    return Executable(program, weights)


@pytest.fixture
def cluster() -> Iterator[ZeromqCluster]:
    made = ZeromqCluster(2, Executable)
    yield made
    made.close()


@pytest.fixture
def by_python(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What Python sends and receives of runs."""
    found: Counter[str] = Counter()
    for kind, name in ((RunMailbox, "send"), (TurnMailbox, "send"), (RunMailbox, "receive")):
        plain = getattr(kind, name)

        def counted(self: Any, *arguments: Any, name: str = name, plain: Any = plain) -> Any:
            found[name] += 1
            return plain(self, *arguments)

        monkeypatch.setattr(kind, name, counted)
    return found


def tour(stuck: bool = False) -> list[Program]:
    """The input goes from the master to rank 1, some times to rank 2 and back, and to the master; ``stuck``: in the middle
    rank 1 waits for a message that never comes."""
    programs, _ = ring([1, 2, 1], 3, REGION)
    if not stuck:
        return programs
    steps = list(programs[1].steps)
    steps.insert(4, ir.Recv(0, 0, REGION, 2, 99))
    return [programs[0], msgspec.structs.replace(programs[1], steps=tuple(steps)), programs[2]]


def picture(seed: int, region: Region = REGION) -> Any:
    return np.random.default_rng(seed).random((1, *region.shape), np.float32)


def until_compiled(session: Session, loaded: Any, by_python: Counter[str], x: Any) -> None:
    """Direct connections open with the first runs."""

    def sends_nothing() -> bool:
        by_python.clear()
        session.run(loaded, [x])
        return not by_python["send"]

    eventually(sends_nothing)


def test_no_message_is_sent_by_python_and_each_is_counted(cluster: ZeromqCluster, by_python: Counter[str]) -> None:
    session = cluster.session(local=local)
    loaded = session.load(tour(), {})
    first = session.run(loaded, [picture(0)])
    until_compiled(session, loaded, by_python, picture(0))
    for seed in range(20):
        found = session.run(loaded, [picture(seed)])
        assert (found.outputs[0] == picture(seed)).all()
        assert (found.sent_bytes, found.received_bytes) == (first.sent_bytes, first.received_bytes)
        for rank, times in found.times.items():
            assert (np.diff(times.reshape(-1)) >= 0).all(), (rank, times)
    receives = sum(isinstance(step, ir.Recv) for program in tour() for step in program.steps)
    assert by_python["receive"] < 20 * receives, "compiled code takes some, if not the first of a rank"


def test_runs_of_several_threads_are_right(cluster: ZeromqCluster, by_python: Counter[str]) -> None:
    session = cluster.session(local=local)
    loads = [session.load(tour(), {}) for _ in range(3)]
    until_compiled(session, loads[0], by_python, picture(0))
    wrong: list[int] = []

    def play(number: int) -> None:
        for turn in range(25):
            x = picture(100 * number + turn)
            if not (session.run(loads[number], [x]).outputs[0] == x).all():
                wrong.append(turn)

    threads = [threading.Thread(target=play, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert not wrong


def test_a_run_that_waits_in_compiled_code_holds_up_no_other(cluster: ZeromqCluster, by_python: Counter[str]) -> None:
    session = cluster.session(local=local)
    stuck, free = session.load(tour(stuck=True), {}), session.load(tour(), {})
    until_compiled(session, free, by_python, picture(1))
    first = session.submit(stuck, [picture(1)])
    for seed in (2, 3):
        assert (session.run(free, [picture(seed)]).outputs[0] == picture(seed)).all()
    assert not first.done()


def test_a_loss_ends_a_run_that_waits_in_compiled_code(cluster: ZeromqCluster, by_python: Counter[str]) -> None:
    session = cluster.session(local=local, timeout_s=60.0)
    stuck, free = session.load(tour(stuck=True), {}), session.load(tour(), {})
    until_compiled(session, free, by_python, picture(1))
    run = session.submit(stuck, [picture(1)])
    time.sleep(0.3)
    begin = time.monotonic()
    cluster.kill(2)
    with pytest.raises(WorkerLostError):
        run.result(30)
    assert time.monotonic() - begin < 30


def test_a_thread_that_waits_gets_the_place_that_compiled_code_had() -> None:
    pair = Pair("far")
    pair.open()
    came: list[Event] = []
    board = Dispatcher(pair.here, came.append, lambda event, error: None)
    eventually(lambda: bool(board.drain() or board.lease()))  # type: ignore[func-returns-value]
    lease = board._lease
    assert lease is not None and not lease.wanted
    assert board.lease() is None, "there is one already"
    other = threading.Thread(target=board.wait, args=(lambda: came or None, 60.0))
    other.start()
    eventually(lambda: lease.wanted)
    pair.there.send(pair.caller, codec.encode(m.Data(1, 2), b"data"), ordered=False)
    time.sleep(0.05)
    assert not came
    board.end_lease()
    other.join(60)
    [event] = came
    assert isinstance(event, Arrival)
    assert board._lease is None
    pair.close()


def test_what_there_is_to_do_first_leaves_no_lease() -> None:
    pair = Pair("far")
    pair.open()
    board = Dispatcher(pair.here, lambda event: None, lambda event, error: None)
    pair.here.wake()
    assert board.lease() is None
    board.wait(lambda: None, 0.01)
    pair.here.send(pair.link, codec.encode(m.Data(1, 2), b"data"))
    assert board.lease() is None, "what the link reports next may have been used up by the send"
    pair.close()


@pytest.mark.parametrize("way", ["near", "far", "sealed"])
def test_channels_lead_to_open_connections_that_are_not_sealed(way: str) -> None:
    pair = Pair(way)
    assert pair.here.channel(pair.link) is None
    pair.open()
    for endpoint, peer in ((pair.here, pair.link), (pair.there, pair.caller)):
        channel = endpoint.channel(peer)
        assert (channel is None) == (way == "sealed")
        assert channel is endpoint.channel(peer)
    assert pair.there.channel("a stranger") is None
    for tag, size in enumerate((64, 5000, 30_000)):
        pair.exchange(tag, size)
    pair.close()
