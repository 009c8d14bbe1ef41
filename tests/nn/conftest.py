"""Clusters for the layers' tests: threads of this process, and processes over ZeroMQ."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import pytest

from fogconv.cluster.connect import connect
from fogconv.cluster.session.session import Session
from tests.cluster.launch import free_port, process, wait_until_listening


@pytest.fixture(scope="session")
def inproc() -> Iterator[Session]:
    with connect("inproc://3", threads=1) as session:
        yield session


@pytest.fixture(scope="session")
def tcp() -> Iterator[Session]:
    with contextlib.ExitStack() as stack:
        ports = [free_port() for _ in range(2)]
        addresses = [f"tcp://127.0.0.1:{port}" for port in ports]
        for address in addresses:
            stack.enter_context(process(sys.executable, "-m", "fogconv.cli.commands.worker", "--bind", address))
        for port in ports:
            wait_until_listening(port, 120.0)
        yield stack.enter_context(connect(addresses, connect_timeout_s=30.0))


@pytest.fixture(params=["inproc", "tcp"])
def cluster(request: pytest.FixtureRequest) -> Session:
    """Each test that asks for it runs on both."""
    session: Session = request.getfixturevalue(request.param)
    return session
