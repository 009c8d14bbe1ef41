"""A worker driven by messages in any order, over the in-process double; what its life is like is in test_lifecycle."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.lifecycle import Stage
from fogconv.cluster.transport.endpoint import Arrival
from fogconv.cluster.transport.inproc import Hub
from fogconv.cluster.worker.server import Worker
from fogconv.ir import steps as ir
from fogconv.ir.program import Program, encode
from tests.cluster.programs import PIECE, FakeExecutable

PROGRAM = Program(
    1,
    2,
    1,
    ("layer",),
    (ir.Buffer("x", PIECE),),
    (ir.Recv(0, 0, PIECE, 0, 1), ir.Send(0, 0, PIECE, 0, 2)),
    {},
)
MASTERS = ("master/0", "master/1")
TOKENS = {master: master.ljust(16).encode() for master in MASTERS}


class WorkerByMessages(RuleBasedStateMachine):
    """Messages, losses and duplicates in any order, from two masters and a stranger.

    No threads, no sleeps: the worker's arrivals and tasks are done here, one by one, and its clock is a counter.
    """

    @initialize()
    def start(self) -> None:
        self.hub = Hub()
        self.ticks = 0
        self.worker = Worker(self.hub.endpoint("worker"), build=FakeExecutable, clock_ns=self.tick)
        self.ends = {name: self.hub.endpoint(name) for name in (*MASTERS, "stranger")}
        self.master: str | None = None
        self.loaded = False
        self.fed: set[int] = set()
        self.asked = 0

    def tick(self) -> int:
        self.ticks += 1
        return self.ticks

    def say(self, origin: str, message: Any, *payloads: bytes) -> list[m.AnyMessage]:
        """Send to the worker, let it handle everything, and return what came back to this one."""
        self.ends[origin].send("worker", codec.encode(message, *payloads))
        return self.settle(origin)

    def settle(self, origin: str) -> list[m.AnyMessage]:
        self.worker.attend()
        while (task := self.worker._next()) is not None and task[0] is not None:
            self.worker._do(*task)
            self.worker.attend()
        answers = []
        for name, end in self.ends.items():
            while (event := end.receive(0.0)) is not None:
                if isinstance(event, Arrival) and name == origin:
                    answers.append(codec.decode(event.frames)[0])
        return answers

    @rule(master=st.sampled_from(MASTERS), again=st.booleans())
    def hello(self, master: str, again: bool) -> None:
        answers = self.say(master, m.Hello(TOKENS[master], 1, 2, master, 0.0))
        if self.master in (None, master):
            assert any(isinstance(answer, m.Welcome) for answer in answers)
            if again:
                assert any(isinstance(a, m.Welcome) for a in self.say(master, m.Hello(TOKENS[master], 1, 2, master, 0.0)))
            self.master, self.loaded, self.fed = master, False, set()
            self.asked = 0
        else:
            assert [type(answer) for answer in answers] == [m.Refused]

    @rule(origin=st.sampled_from((*MASTERS, "stranger")))
    def bye(self, origin: str) -> None:
        self.say(origin, m.Bye())
        if origin == self.master:
            self.master, self.loaded = None, False

    @precondition(lambda self: self.master is not None)
    @rule()
    def master_is_lost(self) -> None:
        assert self.master is not None
        self.hub.cut(self.master)
        self.settle("stranger")
        self.ends[self.master] = self.hub.endpoint(self.master)
        self.master, self.loaded = None, False

    @rule(origin=st.sampled_from((*MASTERS, "stranger")))
    def load(self, origin: str) -> None:
        answers = self.say(origin, m.Load(5, 1), encode(PROGRAM))
        if origin == self.master:
            assert [type(answer) for answer in answers] == [m.Missing, m.Loaded]
            self.loaded = True
        else:
            self.refused_at_most_once(answers)

    def refused_at_most_once(self, answers: list[m.AnyMessage]) -> None:
        """A peer that is not the master is informed once, and then no more."""
        assert [type(answer) for answer in answers] in ([m.Refused], [])

    @precondition(lambda self: self.master is not None)
    @rule(order=st.permutations(["data", "twice"]), late=st.booleans())
    def run(self, order: list[str], late: bool) -> None:
        """Data may come before its run is asked for, and twice. Without data the run times out (its time-out is 0)."""
        assert self.master is not None
        self.asked += 1
        if not late:
            for _ in order:
                self.ends[self.master].send("worker", codec.encode(m.Data(self.asked, 1), bytes(64)))
        answers = self.say(self.master, m.Run(self.asked, 1))
        ends = [answer for answer in answers if isinstance(answer, m.Done | m.Failed)]
        assert [type(end) for end in ends] == [m.Done if self.loaded and not late else m.Failed]
        assert all(end.run == self.asked for end in ends)

    @precondition(lambda self: self.master is not None)
    @rule()
    def aborted_before_it_began(self) -> None:
        assert self.master is not None
        self.asked += 1
        self.ends[self.master].send("worker", codec.encode(m.Run(self.asked, 1)))
        answers = self.say(self.master, m.Abort(self.asked))
        assert not any(isinstance(answer, m.Done | m.Failed) for answer in answers)

    @rule(origin=st.sampled_from((*MASTERS, "stranger")), run=st.integers(0, 5))
    def stale_or_foreign_data(self, origin: str, run: int) -> None:
        """Data of runs that are over, or by strangers, is dropped."""
        if origin == self.master and run > self.asked:
            return
        self.say(origin, m.Data(run, 1), bytes(64))

    @rule(garbage=st.binary(max_size=40))
    def garbage(self, garbage: bytes) -> None:
        self.ends["stranger"].send("worker", [garbage])
        self.settle("stranger")

    @rule(origin=st.sampled_from((*MASTERS, "stranger")))
    def ping(self, origin: str) -> None:
        answers = self.say(origin, m.Ping(9, True), b"abc")
        if origin == self.master:
            assert [type(answer) for answer in answers] == [m.Pong]
        else:
            self.refused_at_most_once(answers)

    @rule()
    def status_is_for_everybody(self) -> None:
        (status,) = self.say("stranger", m.StatusQuery(3))
        assert isinstance(status, m.Status)
        assert status.state == ("joining" if self.master is None else "ready")

    @invariant()
    def the_state_is_what_the_messages_made_it(self) -> None:
        if hasattr(self, "worker"):
            expected = Stage.JOINING if self.master is None else Stage.READY
            assert self.worker.life.stage is expected
            sessions = self.worker._masters.sessions
            assert set(sessions) == set(self.worker.life.masters) == ({self.master} - {None})
            for master, session in sessions.items():
                assert self.worker.life.serves(master, session.term) and session.inbox.bytes == 0

    def teardown(self) -> None:
        if hasattr(self, "worker"):
            self.worker.stop()
            assert self.worker.life.stage is Stage.STOPPED


WorkerByMessages.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestWorkerByMessages = WorkerByMessages.TestCase
