"""``fogconv worker``: what it listens on, and what computes."""

from __future__ import annotations

import sys

import pytest

from fogconv.cli.commands.worker import worker
from fogconv.cli.options.values import BIND
from fogconv.cluster.connect import connect
from fogconv.errors import InputError
from tests import seeded_models as models
from tests.cli.program import call
from tests.cluster.launch import free_port, process, wait_until_listening
from tests.matrix import Cell, check, image, run_cell

pytestmark = pytest.mark.alone


def test_its_own_default_is_an_address_to_listen_on() -> None:
    default = worker.__defaults__
    assert default is not None
    assert BIND.read(default[0]) == "tcp://*:5555"
    with pytest.raises(InputError, match="no worker listens there"):
        BIND.read("inproc://2")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("abacus", "'abacus' is not known; there are numba, torch"),
        ("numba:cuda", "numba computes on the processor"),
        ("torch:nowhere", "can't use the device nowhere here"),
    ],
)
def test_what_can_not_compute_here_is_one_sentence(name: str, complaint: str) -> None:
    found = call("worker", "--bind", "tcp://127.0.0.1:1", "--executor", name)
    assert (found.exit_code, found.stdout) == (2, "")
    assert complaint in found.stderr and found.stderr.count("\n") == 1


def test_a_worker_with_torch_serves_as_any_other() -> None:
    """One beside a worker with numba: they exchange maps, and their rates are not taken for each other's."""
    cell = Cell("squeezenet1_0", 64, 2, "zmq", "rows")
    ports = [free_port(), free_port()]
    addresses = [f"tcp://127.0.0.1:{port}" for port in ports]
    command = (sys.executable, "-m", "fogconv", "worker", "--threads", "1", "--bind")
    with process(*command, addresses[0], "--executor", "torch"), process(*command, addresses[1]):
        for port in ports:
            wait_until_listening(port)
        with connect(addresses, connect_timeout_s=30.0, timeout_s=60.0) as session:
            kernels = {info.kernels for info in session.workers}
            graph = models.graph(cell.model, cell.size)
            engine, output = run_cell(cell, graph, image(cell.model, cell.size), session)
    assert len(kernels) == 2
    check(cell, output)
    assert engine.plan.active_ranks == {0, 1, 2}
