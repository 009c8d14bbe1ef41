"""What a master left behind when it went, and what a worker says of itself meanwhile."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from fogconv.cli.commands.status import Watcher
from fogconv.cluster.connect import connect
from fogconv.cluster.executor import interface, microbenchmark
from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.transport.endpoint import Arrival
from fogconv.cluster.transport.inproc import Hub
from fogconv.cluster.worker.server import Worker
from fogconv.errors import WorkerFailedError
from fogconv.ir import steps as ir
from fogconv.ir.geometry import ConvSpec, Region
from fogconv.ir.program import Program, encode
from tests.cluster.cluster_of import eventually
from tests.cluster.launch import free_port, process, wait_until_listening
from tests.cluster.programs import fake_local
from tests.cluster.worker.wedges import KEY, SPEC, WEIGHT, Talk, honest

PIXEL = Region.whole(16, 1, 1)
STEPS = 50


def copies(steps: int = STEPS) -> Program:
    buffers = (ir.Buffer("x", PIXEL), ir.Buffer("y", PIXEL))
    return Program(1, 2, 1, ("layer",), buffers, (ir.Copy(0, 0, PIXEL, 1),) * steps, {})


class Hold:
    """Something that is called now and then; at its third call it waits until it is let go."""

    def __init__(self) -> None:
        self.calls = 0
        self.reached, self.go = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == 3:
            self.reached.set()
            assert self.go.wait(60.0)


class Served:
    """A worker on its own thread, attended by this one, and the ends of two masters."""

    def __init__(self, build: Any = Executable) -> None:
        hub = Hub()
        self.worker = Worker(hub.endpoint("worker"), build=build)
        self.ends = {name: hub.endpoint(name) for name in ("first", "second")}
        self.answers: dict[str, list[m.AnyMessage]] = {name: [] for name in self.ends}
        self._thread = threading.Thread(target=self.worker.serve, daemon=True)
        self._thread.start()

    def say(self, name: str, message: m.AnyMessage, *payloads: bytes) -> None:
        self.ends[name].send("worker", codec.encode(message, *payloads))
        self.worker.attend()

    def answered(self, name: str, kind: type[Any]) -> Any:
        """The first answer of this kind, which is waited for."""
        found: list[Any] = []

        def came() -> bool:
            self.worker.attend()
            while (event := self.ends[name].receive(0.0)) is not None:
                if isinstance(event, Arrival):
                    self.answers[name].append(codec.decode(event.frames)[0])
            found.extend(answer for answer in self.answers[name] if isinstance(answer, kind))
            return bool(found)

        eventually(came, 60.0)
        return found[0]

    def hello(self, name: str) -> None:
        self.say(name, m.Hello(name.ljust(16).encode(), 1, 2, name, 60.0))

    def close(self) -> None:
        self.worker.stop()
        self._thread.join(60.0)
        assert not self._thread.is_alive()


@pytest.fixture
def hold() -> Hold:
    return Hold()


@pytest.fixture
def serve(hold: Hold) -> Iterator[Callable[..., Served]]:
    opened: list[Served] = []

    def start(build: Any = Executable) -> Served:
        opened.append(Served(build))
        return opened[-1]

    yield start
    hold.go.set()
    for served in opened:
        served.close()


def leaves_and_another_is_served(served: Served, hold: Hold, task: str) -> None:
    """The first master leaves while its task waits at its third step; the second gets its program loaded."""
    assert hold.reached.wait(60.0)
    served.say("second", m.StatusQuery(1))
    status = served.answered("second", m.Status)
    assert status.state == f"busy: {task}"
    served.say("first", m.Bye())
    served.hello("second")
    served.say("second", m.Load(1, 1), encode(copies(1)))
    hold.go.set()
    assert served.answered("second", m.Loaded).program == 1
    assert not [answer for answer in served.answers["first"] if isinstance(answer, m.Measured | m.Done)]


def test_a_load_of_a_master_that_left_ends_before_its_next_step(
    serve: Callable[..., Served], hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind = Executable._bind

    def held(self: Executable, step: ir.AnyStep) -> Any:
        if len(self.program.steps) == STEPS:
            hold()
        return bind(self, step)

    monkeypatch.setattr(Executable, "_bind", held)
    served = serve()
    served.hello("first")
    served.say("first", m.Load(1, 1), encode(copies()))
    leaves_and_another_is_served(served, hold, "loading")
    assert hold.calls == 3


def test_a_measurement_of_a_master_that_left_ends_before_its_next_conv(
    serve: Callable[..., Served], hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = microbenchmark.conv_program

    def held(spec: ConvSpec) -> Any:
        hold()
        return make(spec)

    monkeypatch.setattr(microbenchmark, "conv_program", held)
    served = serve()
    served.hello("first")
    served.say("first", m.Measure(1, (SPEC,) * STEPS, 1))
    leaves_and_another_is_served(served, hold, "measuring")
    assert hold.calls == 3


def test_a_run_of_a_master_that_left_ends_before_its_next_step(
    serve: Callable[..., Served], hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interface, "LOOK_NS", -1)

    class Held(Executable):
        def compute(self, step: ir.AnyStep) -> Callable[[], None]:
            return hold if len(self.program.steps) == STEPS else super().compute(step)

    served = serve(Held)
    served.hello("first")
    served.say("first", m.Load(1, 1), encode(copies()))
    served.answered("first", m.Loaded)
    served.say("first", m.Run(1, 1))
    leaves_and_another_is_served(served, hold, "running")
    assert hold.calls == 3


def test_a_master_that_says_hello_again_gets_rid_of_its_own_load(
    serve: Callable[..., Served], hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind = Executable._bind
    monkeypatch.setattr(Executable, "_bind", lambda self, step: (hold(), bind(self, step))[1])
    served = serve()
    served.hello("first")
    served.say("first", m.Load(1, 1), encode(copies()))
    assert hold.reached.wait(60.0)
    served.hello("first")
    served.say("first", m.Load(2, 2), encode(copies(1)))
    hold.go.set()
    assert served.answered("first", m.Loaded).program == 2
    assert hold.calls == 4


def test_a_worker_that_is_stopped_stops_binding(
    serve: Callable[..., Served], hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind = Executable._bind
    monkeypatch.setattr(Executable, "_bind", lambda self, step: (hold(), bind(self, step))[1])
    served = serve()
    served.hello("first")
    served.say("first", m.Load(1, 1), encode(copies()))
    assert hold.reached.wait(60.0)
    served.worker.stop()
    hold.go.set()
    served.close()
    assert hold.calls == 3


def test_a_run_that_is_over_can_not_be_begun_again() -> None:
    """Neither its data nor an abort would reach it, so that it would wait for as long as its master pleased."""
    talk = Talk()
    talk.say(m.Hello(bytes(16), 1, 2, "twice", 1e6))
    talk.say(m.Load(1, 1), encode(Program(1, 2, 1, ("a",), (ir.Buffer("x", PIXEL),), (ir.Recv(0, 0, PIXEL, 0, 1),), {})))
    assert [type(answer) for answer in talk.say(m.Run(2, 9))] == [m.Failed]
    for number in (2, 1, 0):
        (answer,) = talk.say(m.Run(number, 1))
        assert isinstance(answer, m.Failed) and "must rise" in answer.message


def test_a_program_for_another_rank_or_of_another_weight_is_refused() -> None:
    talk = Talk()
    talk.say(m.Hello(bytes(16), 1, 2, "another", 1.0))
    (answer,) = talk.say(m.Load(1, 1), encode(msgspec.structs.replace(copies(1), rank=0)))
    assert isinstance(answer, m.Failed) and "rank 0" in answer.message
    talk.say(m.Load(2, 2), encode(honest()))
    talk.say(m.Weight(KEY, WEIGHT.shape), WEIGHT.tobytes())
    other = msgspec.structs.replace(copies(1), weights={KEY: (135,)})
    answer = talk.say(m.Load(3, 3), encode(other))[-1]
    assert isinstance(answer, m.Failed) and "not (135,)" in answer.message


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(12, "Cannot allocate memory"), RuntimeError("LLVM ERROR: out of memory")], ids=repr
)
def test_want_of_memory_while_binding_is_told_as_such(error: Exception) -> None:
    def build(*_: Any, **__: Any) -> Any:
        raise error

    talk = Talk(build=build)
    talk.say(m.Hello(bytes(16), 1, 2, "small", 1.0))
    answer = talk.say(m.Load(1, 1), encode(copies(1)))[-1]
    assert isinstance(answer, m.Failed)
    assert answer.error == "WorkerMemoryError"
    assert "a program can't be bound" in answer.message


@pytest.mark.alone
def test_a_worker_process_says_that_it_is_busy_and_is_free_when_its_master_is_gone() -> None:
    """A measurement of hours is under way; a status is answered meanwhile, and the next master served at once."""
    address = f"tcp://127.0.0.1:{free_port()}"
    with process(sys.executable, "-m", "fogconv.cli.commands.worker", "--bind", address):
        wait_until_listening(int(address.rpartition(":")[2]))
        watcher = Watcher({address: 1.0})
        try:
            with connect([address], local=fake_local, connect_timeout_s=60.0) as session:
                spec = ConvSpec(64, 64, 64, 64, (3, 3), padding=(1, 1, 1, 1))
                session._workers.post(1, m.Measure(1, (spec,) * 200, 1000))
                eventually(lambda: (watcher.ask(2.0)[0].state, watcher.health[address].task) == ("busy", "measuring"), 60.0)
            with connect([address], local=fake_local, connect_timeout_s=60.0) as session:
                measured = session.measure([SPEC], repeats=1)[1]
                assert np.isfinite(measured.seconds[0])
                with pytest.raises(WorkerFailedError, match="the limit is"):
                    session.measure([ConvSpec(64, 64, 2**40, 1, (1, 1))])
        finally:
            watcher.close()
