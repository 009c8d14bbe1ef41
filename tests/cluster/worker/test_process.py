"""Workers as processes: what kills them, stops them, and what they do without torch."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from fogconv.cluster.connect import connect
from fogconv.cluster.session.session import Session
from fogconv.errors import ConnectError, WorkerLostError
from fogconv.ir import steps as ir
from fogconv.ir.arrays import weight_key
from fogconv.ir.geometry import ConvSpec, Region
from fogconv.ir.program import Program
from tests.cluster.cluster_of import eventually
from tests.cluster.launch import free_port, process, wait_until_listening
from tests.cluster.programs import fake_local, ring, star

pytestmark = pytest.mark.alone

X = np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1)
REAL = ("-m", "fogconv.cli.commands.worker", "--bind")
FAKE = ("-m", "tests.cluster.fake_worker")


class Workers:
    """``count`` worker processes on free ports."""

    def __init__(self, stack: contextlib.ExitStack, program: tuple[str, ...], **environment: str) -> None:
        self._stack = stack
        self._program = program
        self._environment = environment
        self.addresses: list[str] = []
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, count: int) -> Workers:
        ports = [free_port() for _ in range(count)]
        for port in ports:
            self.addresses.append(f"tcp://127.0.0.1:{port}")
            self.processes.append(self._start(self.addresses[-1]))
        for port in ports:
            wait_until_listening(port)
        return self

    def restart(self, rank: int) -> None:
        address = self.addresses[rank - 1]
        self.processes[rank - 1] = self._start(address)
        wait_until_listening(int(address.rpartition(":")[2]))

    def _start(self, address: str) -> subprocess.Popen[str]:
        return self._stack.enter_context(process(sys.executable, *self._program, address, **self._environment))


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as opened:
        yield opened


@pytest.fixture
def three(stack: contextlib.ExitStack) -> Workers:
    return Workers(stack, FAKE).start(3)


def open_session(workers: Workers, stack: contextlib.ExitStack) -> Session:
    return stack.enter_context(connect(workers.addresses, local=fake_local, timeout_s=60.0, connect_timeout_s=60.0))


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_worker_that_dies_is_noticed_and_the_rest_goes_on(
    kind: signal.Signals, three: Workers, stack: contextlib.ExitStack
) -> None:
    session = open_session(three, stack)
    loaded = session.load(*ring([1, 2, 3]))
    session.run(loaded, [X])
    three.processes[1].send_signal(kind)
    with pytest.raises(WorkerLostError) as lost:
        session.run(loaded, [X])
    assert lost.value.rank == 2
    assert three.addresses[1] in str(lost.value)
    again = session.load(*ring([1, 3]))
    np.testing.assert_array_equal(session.run(again, [X]).outputs[0], X)


def test_a_restarted_worker_is_taken_back(three: Workers, stack: contextlib.ExitStack) -> None:
    session = open_session(three, stack)
    session.load(*star([1, 2, 3]))
    three.processes[0].kill()
    three.processes[0].wait()
    eventually(lambda: session.refresh() == {1})
    three.restart(1)
    assert session.rejoin(60.0) == {1}
    np.testing.assert_array_equal(session.run(session.load(*ring([1, 2, 3], 2)), [X]).outputs[0], X)


def test_a_worker_that_was_only_frozen_comes_back_with_its_weights(three: Workers, stack: contextlib.ExitStack) -> None:
    session = open_session(three, stack)
    session.load(*star([1, 2, 3]))
    three.processes[2].send_signal(signal.SIGSTOP)
    eventually(lambda: session.refresh() == {3})
    three.processes[2].send_signal(signal.SIGCONT)
    assert session.rejoin(60.0) == {3}
    loaded = session.load(*star([1, 2, 3]))
    assert loaded.shipped_bytes == {1: 0, 2: 0, 3: 0}
    np.testing.assert_array_equal(session.run(loaded, [X]).outputs[0], 3 * X + 6)


def test_a_worker_is_free_again_when_its_master_was_killed(three: Workers, stack: contextlib.ExitStack) -> None:
    code = (
        "import sys, time\n"
        "from fogconv.cluster.connect import connect\n"
        "from tests.cluster.programs import fake_local\n"
        "session = connect(sys.argv[1:], local=fake_local, connect_timeout_s=60.0)\n"
        "print('joined', flush=True)\n"
        "time.sleep(60)\n"
    )
    master = stack.enter_context(process(sys.executable, "-c", code, *three.addresses))
    assert master.stdout is not None
    assert master.stdout.readline() == "joined\n"
    master.kill()
    master.wait()
    session = open_session(three, stack)
    np.testing.assert_array_equal(session.run(session.load(*ring([1, 2, 3])), [X]).outputs[0], X)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_worker_stops_cleanly(number: signal.Signals, stack: contextlib.ExitStack) -> None:
    workers = Workers(stack, FAKE).start(1)
    session = open_session(workers, stack)
    workers.processes[0].send_signal(number)
    assert workers.processes[0].wait(60.0) == 0
    eventually(lambda: session.refresh() == {1})
    with pytest.raises(WorkerLostError, match="it was stopped"):
        session.ping(1)


def test_an_idle_worker_uses_next_to_no_cpu(three: Workers, stack: contextlib.ExitStack) -> None:
    session = open_session(three, stack)
    session.run(session.load(*ring([1, 2, 3])), [X])
    processes = [psutil.Process(child.pid) for child in three.processes]

    def used() -> list[float]:
        """Seconds of the CPU that each takes in 2 s."""
        before = [sum(each.cpu_times()[:2]) for each in processes]
        time.sleep(2.0)
        return [sum(each.cpu_times()[:2]) - begin for each, begin in zip(processes, before, strict=True)]

    # 0.1 s in 10 s; /proc counts in steps of 10 ms. On a busy machine what the run left to do may take a while.
    eventually(lambda: max(used()) <= 0.03)


def test_a_port_in_use_is_one_sentence_and_exit_code_2(stack: contextlib.ExitStack) -> None:
    workers = Workers(stack, FAKE).start(1)
    second = stack.enter_context(process(sys.executable, *REAL, workers.addresses[0]))
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 2
    assert errors.strip().splitlines()[-1].startswith(f"fogconv-worker: {workers.addresses[0]} is in use")
    assert "Traceback" not in errors


def test_workers_on_unix_sockets_serve_like_others_and_keep_theirs(stack: contextlib.ExitStack, tmp_path: Path) -> None:
    """Two of them talk to each other, too; and whose process was killed leaves a file that does not stop the next."""
    addresses = [f"ipc://{tmp_path}/{number}" for number in (1, 2)]
    children = [stack.enter_context(process(sys.executable, *FAKE, address)) for address in addresses]
    session = stack.enter_context(connect(addresses, local=fake_local, timeout_s=60.0, connect_timeout_s=60.0))
    np.testing.assert_array_equal(session.run(session.load(*ring([1, 2], 2)), [X]).outputs[0], X)
    second = stack.enter_context(process(sys.executable, *FAKE, addresses[0]))
    _, errors = second.communicate(timeout=120)
    assert second.returncode and f"{addresses[0]} is in use" in errors
    children[1].kill()
    children[1].wait()
    eventually(lambda: session.refresh() == {2})
    with pytest.raises(ConnectError, match=r"\(Connection refused\)"):
        connect(addresses[1], connect_timeout_s=2.0)
    children[1] = stack.enter_context(process(sys.executable, *FAKE, addresses[1]))
    assert session.rejoin(60.0) == {2}
    np.testing.assert_array_equal(session.run(session.load(*ring([1, 2])), [X]).outputs[0], X)


def test_nobody_there_is_told_with_address_and_time(stack: contextlib.ExitStack) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(ConnectError, match=rf"{address} did not answer within [\d.]+ s \(Connection refused\)") as error:
        connect(address, connect_timeout_s=2.0)
    assert error.value.exit_code == 2
    with pytest.raises(ConnectError, match=r"no-such-host\.invalid"):
        connect("tcp://no-such-host.invalid:5555", connect_timeout_s=0.2, insecure=True)


def test_host_names_and_ipv6_work(stack: contextlib.ExitStack) -> None:
    port = free_port()
    stack.enter_context(process(sys.executable, *FAKE, f"tcp://*:{port}"))
    wait_until_listening(port)
    for host in ("localhost", "127.0.0.1"):
        with connect(f"tcp://{host}:{port}", local=fake_local) as session:
            assert session.workers[0].address == f"tcp://{host}:{port}"
    if Path("/proc/net/if_inet6").exists():
        with connect(f"tcp://[::1]:{port}", local=fake_local) as session:
            session.ping(1)


def test_json_logs_are_json(stack: contextlib.ExitStack) -> None:
    port = free_port()
    child = stack.enter_context(process(sys.executable, *REAL, f"tcp://127.0.0.1:{port}", "--log-json"))
    assert child.stderr is not None
    first = json.loads(child.stderr.readline())
    assert first["message"].startswith("listening on")
    assert {"time", "level", "logger", "message"} <= first.keys()
    child.terminate()
    _, errors = child.communicate(timeout=60)
    assert all("message" in json.loads(line) for line in errors.splitlines())


@pytest.fixture(scope="module")
def no_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that, first on the path, makes ``import torch`` fail."""
    folder = tmp_path_factory.mktemp("without")
    for name in ("torch", "torchvision"):
        (folder / f"{name}.py").write_text(f"raise ImportError('{name} is not on this device')\n")
    return folder


@pytest.mark.arm
def test_a_worker_needs_no_torch_and_its_kernels_are_right(no_torch: Path, stack: contextlib.ExitStack) -> None:
    """A conv is done half by a worker process in which torch can't be imported, held to float64."""
    from fogconv.cluster.session.session import _interpreter as local

    root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join((str(no_torch), root))
    workers = Workers(stack, REAL, PYTHONPATH=path).start(1)
    session = stack.enter_context(connect(workers.addresses, local=local, connect_timeout_s=30.0))
    spec = ConvSpec(16, 32, 9, 9, (3, 3), padding=(1, 1, 1, 1))
    weight = np.random.default_rng(4).standard_normal(spec.weight_shape, np.float32)
    key = weight_key(weight)
    whole, result = Region.whole(16, 9, 9), Region.whole(32, 9, 9)
    conv = ir.Conv(0, spec, key, None, None, 0, whole, 1, result)
    buffers = (ir.Buffer("x", whole, (1, 1, 1, 1)), ir.Buffer("y", result))
    master = (
        ir.Input(0, 0, 0, whole),
        ir.Send(0, 0, whole, 1, 1),
        ir.Recv(0, 1, result, 1, 2),
        ir.Output(0, 0, 1, result),
    )
    worker = (ir.Recv(0, 0, whole, 0, 1), conv, ir.Send(0, 1, result, 0, 2))
    programs = [
        Program(0, 2, 1, ("conv",), buffers, master, {}),
        Program(1, 2, 1, ("conv",), buffers, worker, {key: spec.weight_shape}),
    ]
    loaded = session.load(programs, {key: weight})
    x = np.random.default_rng(3).standard_normal((1, 16, 9, 9), np.float32)
    y = session.run(loaded, [x]).outputs[0]
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    expected = np.einsum("nchwij,fcij->nfhw", windows, weight.astype(np.float64))
    assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()
    maps = Path(f"/proc/{workers.processes[0].pid}/maps").read_text()
    assert "torch" not in maps.replace(str(no_torch), "")
