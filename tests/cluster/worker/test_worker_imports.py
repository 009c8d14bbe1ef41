"""What a worker process is: no torch, no model, no compiler before a master comes, next to no CPU while it waits, and only
its own shards in memory."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from fogconv.cluster.connect import connect
from fogconv.cluster.worker.kernel_facts import kernel_facts
from fogconv.ir.layers import Conv
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.engine import Engine
from tests import seeded_models as models
from tests.cluster.launch import environment, free_port, mpirun, process, wait_until_listening
from tests.matrix import STEADY, Cell, check, image

pytestmark = pytest.mark.alone

SHUT = (
    "torch",
    "torchvision",
    "PIL",
    "networkx",
    "fogconv.runtime.engine",
    "fogconv.frontend.torch.export",
    "fogconv.zoo.models",
    "fogconv.planning.search",
)
WORKER = f"import sys; sys.modules.update(dict.fromkeys({SHUT!r})); from fogconv.cli.app import main_worker; main_worker()"
"""A worker in which importing torch, or any module that knows models or plans, fails."""

IDLE_S = 10.0
PATIENCE_S = 60.0
MOST_CPU_S = {"zmq": 0.1, "mpi": 0.5}
"""In IDLE_S, after what the start and the last run left behind."""


@pytest.fixture(scope="module")
def workers() -> Iterator[list[tuple[str, psutil.Process]]]:
    with ExitStack() as stack:
        started = []
        for _ in range(2):
            address = f"tcp://127.0.0.1:{free_port()}"
            child = stack.enter_context(process(sys.executable, "-c", WORKER, "--bind", address, "--threads", "1"))
            started.append((address, psutil.Process(child.pid)))
        for address, _ in started:
            wait_until_listening(int(address.rpartition(":")[2]))
        yield started


def cpu_s(process_of: psutil.Process) -> float:
    times = process_of.cpu_times()
    return float(times.user + times.system)


def test_an_idle_worker_has_loaded_no_compiler_until_a_master_comes() -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    with process(sys.executable, "-c", WORKER, "--bind", address, "--threads", "1") as child:
        wait_until_listening(int(address.rpartition(":")[2]))
        maps = Path(f"/proc/{child.pid}/maps")
        assert "llvmlite" not in maps.read_text()
        with connect([address]) as session:
            assert session.workers[0].isa == kernel_facts().isa and session.workers[0].kernels == kernel_facts().fingerprint
            due = time.monotonic() + PATIENCE_S
            while "llvmlite" not in maps.read_text() and time.monotonic() < due:
                time.sleep(0.1)
        assert "llvmlite" in maps.read_text(), "it is loaded while the master plans"


def test_a_worker_that_can_import_neither_torch_nor_a_model_serves(workers: list[tuple[str, psutil.Process]]) -> None:
    cell = Cell("mobilenet_v2", 64, 2, "zmq", "auto")
    with connect([address for address, _ in workers]) as session:
        engine = Engine(models.graph(cell.model, cell.size), session, cell.topology, cell.options, STEADY)
        check(cell, engine.run(image(cell.model, cell.size)).output)
        assert engine.plan.active_ranks == {0, 1, 2}


def test_importing_the_package_is_light() -> None:
    heavy = ("torch", "numba", "mpi4py", "zmq", "rich", "typer")
    program = f"import fogconv, sys; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.full
def test_an_idle_worker_uses_next_to_no_cpu_on_zeromq(workers: list[tuple[str, psutil.Process]]) -> None:
    """While a master is connected: its heartbeats are what keeps a worker awake."""
    with connect([address for address, _ in workers]) as session:
        assert len(session.workers) == 2
        time.sleep(1.0)
        before = [cpu_s(child) for _, child in workers]
        time.sleep(IDLE_S)
        used = [cpu_s(child) - begin for (_, child), begin in zip(workers, before, strict=True)]
    assert max(used) < MOST_CPU_S["zmq"]


@pytest.mark.full
def test_an_idle_rank_uses_little_cpu_on_mpi() -> None:
    program = f"""
import psutil, time
from fogconv.cluster.connect import connect
from fogconv.cluster.worker.kernel_facts import kernel_facts
with connect("mpi://") as session:
    children = [psutil.Process(info.pid) for info in session.workers]
    spent = lambda: [sum(child.cpu_times()[:2]) for child in children]
    time.sleep(1.0)
    before = spent()
    time.sleep({IDLE_S})
    print(max(after - begin for begin, after in zip(before, spent())))
"""
    done = mpirun(3, "-c", program)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < MOST_CPU_S["mpi"]


def test_a_workers_memory_holds_its_shards_and_no_more(workers: list[tuple[str, psutil.Process]]) -> None:
    """vgg11 has 37 MB of conv weights. Two workers that hold a third each grow by far less than the model, and so little
    that plain and packed weights and the maps account for it."""
    cell = Cell("vgg11", 224, 2, "zmq", "star")
    graph = models.graph(cell.model, cell.size)
    convs = sum(graph.weights[layer.weight].nbytes for layer in graph.layers if isinstance(layer, Conv) and not layer.linear)
    with connect([address for address, _ in workers]) as session:
        before = {info.rank: info.memory_bytes for info in session.workers}
        engine = Engine(graph, session, cell.topology, PlanOptions("star", threshold=0.0), STEADY)
        engine.run(image(cell.model, cell.size))
        shipped = engine.loaded.shipped_bytes
        status = session.status()
        maps = engine.loaded.program_bytes
    for rank in (1, 2):
        assert shipped[rank] < 0.4 * convs, "more than its own shards travelled"
        assert status[rank].weight_bytes < 0.4 * convs + 20e6, "of this model and of those before"
        grown = status[rank].memory_bytes - before[rank]
        assert grown < shipped[rank] + maps[rank] + 60e6
