"""A worker and its own peers gone bad: bugs that they run into, links under false ranks, data for runs that never come."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import pytest

from fogconv.cluster.compilers.helpers import Helpers
from fogconv.cluster.executor.mailbox import Inbox
from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.protocol.lifecycle import Stage
from fogconv.cluster.transport.endpoint import Arrival, Peer
from fogconv.cluster.transport.inproc import Hub, InprocEndpoint
from fogconv.cluster.worker.master_session import SPARE_BYTES, Loading, MasterSession, received_bytes
from fogconv.cluster.worker.server import MAX_TASK_BYTES, Worker
from fogconv.errors import ClusterError
from fogconv.ir import steps as ir
from fogconv.ir.program import Program, encode
from tests.cluster.cluster_of import eventually
from tests.cluster.programs import PIECE, FakeExecutable

TOKEN = b"the session's tok"[:16]
HELLO = m.Hello(TOKEN, 1, 3, "master", 0.0)
PIECE_BYTES = 64
PATIENCE_S = 20.0


class Bench:
    """A worker over the in-process double, and ends that talk to it; nothing runs by itself."""

    def __init__(self, **options: object) -> None:
        self.hub = Hub()
        self.worker = Worker(self.hub.endpoint("worker"), build=FakeExecutable, **options)  # type: ignore[arg-type]
        self.ends: dict[str, InprocEndpoint] = {}

    def say(self, origin: str, message: m.AnyMessage, *payloads: Frame) -> list[m.AnyMessage]:
        """Send, let the worker handle it and do its tasks, and return what came back."""
        self.post(origin, message, *payloads)
        return self.answers(origin)

    def post(self, origin: str, message: m.AnyMessage, *payloads: Frame) -> None:
        if origin not in self.ends:
            self.ends[origin] = self.hub.endpoint(origin)
        self.ends[origin].send("worker", codec.encode(message, *payloads))

    def answers(self, origin: str) -> list[m.AnyMessage]:
        self.worker.attend()
        while (task := self.worker._next()) is not None and task[0] is not None:
            self.worker._do(*task)
            self.worker.attend()
        found = []
        while (event := self.ends[origin].receive(0.0)) is not None:
            if isinstance(event, Arrival):
                found.append(codec.decode(event.frames)[0])
        return found


def broken_clock() -> int:
    raise ZeroDivisionError("a bug")


def test_a_bug_in_handling_a_message_drops_its_sender_and_not_the_worker(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(clock_ns=broken_clock)
    assert [type(answer) for answer in bench.say("master", HELLO)] == [m.Welcome]
    with caplog.at_level(logging.ERROR):
        bench.say("master", m.Ping(1, False), b"")
    assert len(caplog.records) == 1
    assert "ZeroDivisionError" in caplog.text
    assert bench.worker.life.stage is Stage.JOINING
    assert [type(answer) for answer in bench.say("another", HELLO)] == [m.Welcome]


class Full(InprocEndpoint):
    """An end that can send nothing but a welcome."""

    def send(self, peer: Peer, frames: Sequence[Frame], *, ordered: bool = True, behind: bool = False) -> None:
        if not isinstance(codec.decode(frames)[0], m.Welcome):
            raise ClusterError("65536 messages wait: it does not take them")
        super().send(peer, frames)


def test_an_answer_that_can_not_be_sent_ends_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub()
    endpoint = hub._endpoints["worker"] = Full(hub, "worker")
    worker = Worker(endpoint, build=FakeExecutable)
    thread = threading.Thread(target=worker.serve, daemon=True)
    thread.start()
    for name in ("master", "another"):
        end = hub.endpoint(name)
        end.send("worker", codec.encode(HELLO))
        event = end.receive(PATIENCE_S)
        assert isinstance(event, Arrival)
        assert isinstance(codec.decode(event.frames)[0], m.Welcome)
        end.send("worker", codec.encode(m.Load(1, 1), b"no program"))
        eventually(lambda: not worker.life.masters)
    assert "does not take them" in caplog.text
    worker.stop()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("rank", "token", "keys", "credential", "attached"),
    [
        (2, TOKEN, {}, None, True),
        (2, bytes(16), {}, None, False),
        (0, TOKEN, {}, None, False),
        (1, TOKEN, {}, None, False),
        (3, TOKEN, {}, None, False),
        (2, TOKEN, {2: "its key"}, "its key", True),
        (2, TOKEN, {1: "mine", 2: "its key"}, "mine", False),
        (2, TOKEN, {1: "mine"}, "mine", False),
        (2, TOKEN, {2: "its key"}, None, False),
        (0, TOKEN, {2: "its key"}, "its key", False),
        (0, TOKEN, {0: "its key"}, "its key", False),
    ],
)
def test_only_a_rank_of_the_session_attaches_and_with_keys_shows_its_own(
    rank: int, token: bytes, keys: dict[int, str], credential: str | None, attached: bool
) -> None:
    session = MasterSession("master", 1, HELLO, addresses=m.Peers({}, keys))
    assert session.attach("peer", m.Attach(token, rank), credential) is attached
    assert session.rank_of("peer") == (rank if attached else None)


def test_whoever_attaches_is_answered_and_a_false_master_sends_no_data() -> None:
    bench = Bench()
    bench.say("master", HELLO)
    assert bench.say("peer", m.Attach(TOKEN, 2)) == [m.Attached(1)]
    (refusal,) = bench.say("false master", m.Attach(TOKEN, 0))
    assert isinstance(refusal, m.Refused)
    bench.say("false master", m.Data(1, 1), bytes(PIECE_BYTES))
    bench.say("peer", m.Data(1, 1), bytes(PIECE_BYTES))
    (session,) = bench.worker._masters.sessions.values()
    assert session.inbox.bytes == PIECE_BYTES
    assert session.inbox.take(1, 0, 1) is None
    assert session.inbox.take(1, 2, 1) is not None


PROGRAM = Program(
    1, 3, 1, ("layer",), (ir.Buffer("x", PIECE),), (ir.Recv(0, 0, PIECE, 2, 1), ir.Send(0, 0, PIECE, 0, 2)), {}
)


def test_data_for_runs_to_come_is_bounded_and_the_next_run_has_what_it_needs(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.say("master", HELLO)
    bench.say("master", m.Load(5, 1), encode(PROGRAM))
    bench.say("peer", m.Attach(TOKEN, 2))
    bench.say("gone bad", m.Attach(TOKEN, 2))
    bench.say("peer", m.Data(1, 1), bytes(PIECE_BYTES))
    (session,) = bench.worker._masters.sessions.values()
    assert session.inbox.most_bytes == SPARE_BYTES + 2 * received_bytes(PROGRAM)
    chunk = bytes(300_000)
    with caplog.at_level(logging.ERROR):
        for run in range(1000, 1100):
            bench.post("gone bad", m.Data(run, 1), chunk)
            bench.worker.attend()
            assert session.inbox.bytes <= session.inbox.most_bytes
    assert len(caplog.records) == 1, "it is dropped at once, and said so once"
    assert "for runs to come" in caplog.text
    answers = bench.say("master", m.Run(1, 1))
    assert m.Done in [type(answer) for answer in answers]


def test_no_run_of_an_honest_session_fills_the_inbox() -> None:
    """Each loaded program may have one run under way and one that was given up, all of whose data has come."""
    session = MasterSession("master", 1, HELLO)
    region = PIECE
    for number in range(1, 4):
        steps = tuple(ir.Recv(0, 0, region, 0, tag) for tag in range(50))
        program = Program(1, 2, 1, ("layer",), (ir.Buffer("x", region),), steps, {})
        session.adopt(Loading(number, number, program, set(), Helpers(program, 1, 0)), FakeExecutable(program, {}))
    for run in range(1, 7):
        for tag in range(50):
            session.inbox.put(run, 0, tag, bytes(PIECE_BYTES + 100))
    assert session.inbox.bytes <= session.inbox.most_bytes - SPARE_BYTES
    session.unload(1)
    assert session.inbox.most_bytes == SPARE_BYTES + 2 * 2 * 50 * (PIECE_BYTES + 1024)


def test_room_is_made_of_what_is_furthest_ahead_of_whom_most_waits() -> None:
    inbox = Inbox()
    inbox.most_bytes = 1000
    inbox.put(7, 1, 0, bytes(300))
    for run in (5, 9, 8, 6):
        inbox.put(run, 2, 0, bytes(200))
    assert inbox.make_room() == 2
    assert inbox.bytes == 500
    assert inbox.take(5, 2, 0) is not None
    assert [run for run in (6, 8, 9) if inbox.take(run, 2, 0) is not None] == []
    assert inbox.take(7, 1, 0) is not None


def test_a_master_that_ships_without_end_is_let_go() -> None:
    bench = Bench()
    bench.say("master", HELLO)
    chunk = bytes(1 << 20)
    for _ in range((MAX_TASK_BYTES >> 20) + 2):
        bench.post("master", m.Weight("a" * 64, (1 << 18,)), chunk)
    bench.worker.attend()
    assert bench.worker.life.stage is Stage.JOINING
    assert [type(answer) for answer in bench.say("another", HELLO)] == [m.Welcome]


def test_status_says_whether_masters_are_known_by_their_keys() -> None:
    (of_anybody,) = Bench().say("watcher", m.StatusQuery(1))
    (of_listed,) = Bench(masters=frozenset({"a key"})).say("watcher", m.StatusQuery(1))
    assert isinstance(of_anybody, m.Status)
    assert isinstance(of_listed, m.Status)
    assert (of_anybody.authenticated, of_listed.authenticated) == (False, True)
