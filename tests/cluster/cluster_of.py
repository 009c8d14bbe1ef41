"""Small clusters for tests: workers as threads, over in-process queues or over ZeroMQ on loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from fogconv.cluster.executor.interface import Build
from fogconv.cluster.session.session import Session
from fogconv.cluster.transport.endpoint import Endpoint
from fogconv.cluster.transport.inproc import Hub
from fogconv.cluster.transport.zeromq.endpoint import ZeromqEndpoint
from fogconv.cluster.worker.server import Worker
from tests.cluster.programs import FakeExecutable, fake_local


class Cluster:
    """``count`` workers on one transport; ``session`` opens one with all of them."""

    def __init__(self, count: int, build: Build, **options: Any) -> None:
        self.addresses: list[str] = []
        self.workers: list[Worker] = []
        self.sessions: list[Session] = []
        self._build = build
        self._options = options
        self._threads: list[threading.Thread] = []
        for number in range(1, count + 1):
            self.add(f"worker/{number}")

    def add(self, name: str) -> Worker:
        """Start one more worker under a name."""
        endpoint, address = self.worker_endpoint(name)
        worker = Worker(endpoint, build=self._build, **self._options)
        thread = threading.Thread(target=worker.serve, daemon=True)
        thread.start()
        self.addresses.append(address)
        self.workers.append(worker)
        self._threads.append(thread)
        return worker

    def worker_endpoint(self, name: str) -> tuple[Endpoint, str]:
        raise NotImplementedError

    def master_endpoint(self) -> Endpoint:
        raise NotImplementedError

    def kill(self, rank: int) -> None:
        """The worker of this rank is lost without notice."""
        raise NotImplementedError

    def session(self, **options: Any) -> Session:
        options = {"timeout_s": 10.0, "local": fake_local, **options}
        session = Session(self.master_endpoint(), options.pop("addresses", self.addresses), **options)
        self.sessions.append(session)
        return session

    def close(self) -> None:
        for session in self.sessions:
            session.close()
        for worker in self.workers:
            worker.stop()
        for thread in self._threads:
            thread.join(60.0)
            assert not thread.is_alive(), "a worker did not stop"


class InprocCluster(Cluster):
    def __init__(self, count: int, build: Build, **options: Any) -> None:
        self.hub = Hub()
        super().__init__(count, build, **options)

    def worker_endpoint(self, name: str) -> tuple[Endpoint, str]:
        return self.hub.endpoint(name), name

    def master_endpoint(self) -> Endpoint:
        return self.hub.endpoint(f"master/{len(self.sessions)}")

    def kill(self, rank: int) -> None:
        self.hub.cut(self.addresses[rank - 1])


class ZeromqCluster(Cluster):
    def __init__(self, count: int, build: Build, **options: Any) -> None:
        self.endpoints: list[ZeromqEndpoint] = []
        super().__init__(count, build, **options)

    def worker_endpoint(self, name: str) -> tuple[Endpoint, str]:
        endpoint = ZeromqEndpoint("tcp://127.0.0.1:*")
        self.endpoints.append(endpoint)
        return endpoint, endpoint.address

    def master_endpoint(self) -> Endpoint:
        return ZeromqEndpoint()

    def kill(self, rank: int) -> None:
        self.endpoints[rank - 1].close()


KINDS: dict[str, Callable[..., Cluster]] = {"inproc": InprocCluster, "zeromq": ZeromqCluster}


def eventually(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait for a condition that another thread brings about."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


__all__ = ["KINDS", "Cluster", "FakeExecutable", "InprocCluster", "ZeromqCluster", "eventually"]
