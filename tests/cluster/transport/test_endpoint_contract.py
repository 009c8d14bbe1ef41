"""One contract for all transports: in-process, ZeroMQ and MPI."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from fogconv.cluster.transport.endpoint import Endpoint, Peer
from fogconv.cluster.transport.inproc import Hub
from fogconv.cluster.transport.zeromq.endpoint import ZeromqEndpoint
from tests.cluster.launch import mpirun
from tests.cluster.transport.contract import CHECKS, a_dead_peer_is_noticed, attached, echo

pytestmark = pytest.mark.alone

Ends = tuple[Endpoint, Peer]


def inproc_ends() -> tuple[Endpoint, Endpoint, str]:
    hub = Hub()
    return hub.endpoint("inproc://here"), hub.endpoint("inproc://there"), "inproc://there"


def zeromq_ends() -> tuple[Endpoint, Endpoint, str]:
    there = ZeromqEndpoint("tcp://127.0.0.1:*")
    return ZeromqEndpoint(), there, there.address


def ipc_ends(folder: Path) -> tuple[Endpoint, Endpoint, str]:
    there = ZeromqEndpoint(f"ipc://{folder}/worker")
    return ZeromqEndpoint(), there, there.address


@pytest.fixture(params=["inproc", "zeromq", "ipc"])
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ends]:
    made = {"inproc": inproc_ends, "zeromq": zeromq_ends, "ipc": partial(ipc_ends, tmp_path)}
    here, there, address = made[request.param]()
    server = threading.Thread(target=echo, args=(there,), daemon=True)
    server.start()
    yield here, attached(here, address)
    here.close()


@pytest.mark.parametrize("check", CHECKS)
def test_within_a_host(check: str, ends: Ends) -> None:
    CHECKS[check](*ends)


def test_a_dead_peer_is_noticed(ends: Ends) -> None:
    a_dead_peer_is_noticed(*ends)


def test_closing_twice_is_closing(ends: Ends) -> None:
    here, peer = ends
    here.close()
    here.close()
    here.send(peer, [b"to nobody"])
    assert here.receive(0.0) is None


@pytest.fixture(scope="module")
def over_mpi() -> dict[str, str]:
    finished = mpirun(2, "-m", "tests.cluster.transport.mpi.mpi_program", "contract")
    assert finished.returncode == 0, finished.stderr
    results: dict[str, str] = json.loads(finished.stdout)
    return results


@pytest.mark.parametrize("check", [*CHECKS, "closing_twice_is_closing"])
def test_over_mpi(check: str, over_mpi: dict[str, str]) -> None:
    assert over_mpi[check] == ""
