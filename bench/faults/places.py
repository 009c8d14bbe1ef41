"""Places: the environments of a fault campaign's workers, and how a worker is killed, stopped or disconnected there.

Testbed        a network namespace each (root): disconnecting sets the link down
Loopback   127.0.0.1, each worker behind a relay: disconnecting makes the relay pass nothing on, and refuse nothing
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from bench.fog.testbed import FogBed

PORT = 5555
ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": str(ROOT)}


class Place(Protocol):
    """``addresses[i]`` is worker i's address for the master. Used in a ``with`` block, after which everything is
    removed."""

    addresses: list[str]
    workers: list[subprocess.Popen[Any]]

    def start(self, worker: int) -> None: ...
    def master(self, arguments: Sequence[str], **options: Any) -> subprocess.Popen[Any]: ...
    def limit(self, share: float | None) -> None: ...
    def cut(self, worker: int) -> None: ...
    def heal(self, worker: int) -> None: ...
    def __enter__(self) -> Place: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def worker_command(bind: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "fogconv.cli.commands.worker", "--bind", bind, "--threads", "1", *more]


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a process with SIGKILL, stopped or not, and wait for it."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)
        process.kill()
    process.wait()


class Testbed:
    """``count`` workers in nodes 1…count of a FogBed, the master in node 0."""

    def __init__(self, count: int, rate: str = "1gbit", flags: Sequence[str] = ()) -> None:
        self._bed = FogBed(count + 1, rate)
        self._count = count
        self._flags = flags

    def __enter__(self) -> Testbed:
        self._bed.__enter__()
        self.addresses = [f"tcp://{node.address}:{PORT}" for node in self._bed.nodes[1:]]
        self.workers = [self._new(worker) for worker in range(self._count)]
        return self

    def __exit__(self, *exception: Any) -> None:
        for worker in self.workers:
            end(worker)
        self._bed.__exit__(*exception)

    def _new(self, worker: int) -> subprocess.Popen[Any]:
        command = worker_command(f"tcp://*:{PORT}", *self._flags)
        return self._bed.popen(worker + 1, command, env=environment(), stderr=subprocess.DEVNULL)

    def start(self, worker: int) -> None:
        end(self.workers[worker])
        self.workers[worker] = self._new(worker)

    def master(self, arguments: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        return self._bed.popen(0, [sys.executable, *arguments], env=environment(), **options)

    def limit(self, share: float | None) -> None:
        self._bed.set_cpu(share)

    def thin(self, worker: int, rate: str) -> None:
        """Set both directions of a worker's link to this rate."""
        self._bed.set_rate(worker + 1, rate)

    def cut(self, worker: int) -> None:
        self._bed.cut(worker + 1)

    def heal(self, worker: int) -> None:
        self._bed.heal(worker + 1)


class Loopback:
    """``count`` workers on this machine, each behind a Relay."""

    def __init__(self, count: int, flags: Sequence[str] = ()) -> None:
        self._count = count
        self._flags = flags

    def __enter__(self) -> Loopback:
        self._stack = ExitStack()
        self.ports = [free_port() for _ in range(self._count)]
        self._relays = [self._stack.enter_context(Relay(port)) for port in self.ports]
        self.addresses = [f"tcp://127.0.0.1:{relay.port}" for relay in self._relays]
        self.workers = [self._new(worker) for worker in range(self._count)]
        return self

    def __exit__(self, *exception: Any) -> None:
        for worker in self.workers:
            end(worker)
        self._stack.close()

    def _new(self, worker: int) -> subprocess.Popen[Any]:
        command = worker_command(f"tcp://127.0.0.1:{self.ports[worker]}", *self._flags)
        return subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)

    def start(self, worker: int) -> None:
        end(self.workers[worker])
        self.workers[worker] = self._new(worker)

    def master(self, arguments: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        return subprocess.Popen([sys.executable, *arguments], env=environment(), **options)

    def limit(self, share: float | None) -> None:
        """Does nothing: only an emulated cluster has quotas."""

    def cut(self, worker: int) -> None:
        self._relays[worker].frozen.set()

    def heal(self, worker: int) -> None:
        self._relays[worker].frozen.clear()


class Relay:
    """A software cable: passes TCP connections on to a port, until it is frozen."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.2)
        self.port: int = self._listener.getsockname()[1]
        self.frozen = threading.Event()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Relay:
        self._threads[0].start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._listener.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            with suppress(OSError):
                near, _ = self._listener.accept()
                threading.Thread(target=self._pass, args=(near,), daemon=True).start()

    def _pass(self, near: socket.socket) -> None:
        with near, suppress(OSError):
            while self.frozen.is_set():
                time.sleep(0.02)
            with socket.create_connection(("127.0.0.1", self._to), timeout=5.0) as far:
                ends = {near: far, far: near}
                while not self._over.is_set():
                    ready, _, _ = select.select(list(ends), [], [], 0.1)
                    while self.frozen.is_set():
                        time.sleep(0.02)
                    for end_ in ready:
                        data = end_.recv(1 << 18)
                        if not data:
                            return
                        ends[end_].sendall(data)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
