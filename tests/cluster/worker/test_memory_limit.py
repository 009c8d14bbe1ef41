"""``--memory`` covers the whole process: interpreter, compiled code, weights, maps. Real workers, with a cold cache of
kernels, never hold more than a tenth above it."""

from __future__ import annotations

import re
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from fogconv.cli.options.hardware import limited
from fogconv.cluster.connect import connect
from fogconv.errors import PlannerError
from fogconv.hardware.topology import Topology
from fogconv.ir.memory.footprint import MARGIN, room
from fogconv.ir.memory.swapping import read_bytes
from fogconv.planning.memory import needed_bytes
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.engine import Engine
from tests.cluster.launch import free_port, process, wait_until_listening
from tests.matrix import STEADY, Cell, check, image
from tests.seeded_models import graph

pytestmark = pytest.mark.alone

LIMIT = 400_000_000
WORKERS = 2
SIZES = {"alexnet": 224, "densenet121": 64, "inception_v3": 139, "mobilenet_v2": 96, "resnet50": 96, "vgg16": 64}
SCHEMES = ("rows", "depth", "star")
HEARTBEAT_S = 30.0
"""A busy machine is no reason to lose a worker here."""
QUICK = (("resnet18", 64, "rows"), ("squeezenet1_0", 64, "star"), ("mobilenet_v2", 64, "depth"))


def peak_bytes(pid: int) -> int:
    """The most that a process held at once."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def expect_kept(cache: Path, model: str, size: int, scheme: str, *, swap: bool = False) -> None:
    """A cluster of workers with this limit gives the right answer, and none holds more.

    ``swap``: the master's part is limited as well, so that the weights fit nowhere but on the disks.
    """
    cell = Cell(model, size, WORKERS, "zmq", scheme)
    with ExitStack() as stack:
        workers = {}
        for _ in range(WORKERS):
            port = free_port()
            flags = ("--bind", f"tcp://127.0.0.1:{port}", "--threads", "1", "--memory", str(LIMIT))
            flags += ("--heartbeat", str(HEARTBEAT_S))
            command = (sys.executable, "-m", "fogconv", "worker", *flags)
            workers[f"tcp://127.0.0.1:{port}"] = stack.enter_context(process(*command, FOGCONV_CACHE_DIR=str(cache)))
            wait_until_listening(port)
        session = stack.enter_context(connect(list(workers), heartbeat_s=HEARTBEAT_S))
        topology = Topology.uniform(WORKERS + 1, 2e10, 1.25e9, 1e-6, copy_s_per_byte=1e-11, step_s=1e-6)
        options = PlanOptions(scheme, threshold=0.0, allow_swap=swap)
        if swap:
            topology = limited(topology, LIMIT)
            with pytest.raises(PlannerError, match="--allow-swap"):
                Engine(graph(model, size), session, topology, replace(options, allow_swap=False), STEADY)
        engine = Engine(graph(model, size), session, topology, options, STEADY)
        check(cell, engine.run(image(model, size)).output)
        assert all(worker.poll() is None for worker in workers.values()), "none ended"
        assert not engine.events, "what the planner found to fit was refused by no worker, and nobody was lost"
        needed = needed_bytes(engine.graph, engine.plan, engine.topology)
        assert max(needed[1:]) > 0, "the workers have work"
        assert max(needed[1:]) <= room(LIMIT)
        assert all(read_bytes(program) > 0 for program in engine.programs[1:]) is swap
        peaks = [peak_bytes(worker.pid) for worker in workers.values()]
    assert max(peaks) <= MARGIN * LIMIT, f"{cell}: {[round(peak / 1e6) for peak in peaks]} MB; {needed} B were counted"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cold at first, and shared by the cells, as on a device that has seen other models."""
    return tmp_path_factory.mktemp("kernels")


@pytest.mark.parametrize(("model", "size", "scheme"), QUICK)
def test_a_worker_keeps_to_its_limit(cache: Path, model: str, size: int, scheme: str) -> None:
    expect_kept(cache, model, size, scheme)


def test_a_worker_that_swaps_keeps_to_its_limit_where_it_would_refuse(cache: Path) -> None:
    expect_kept(cache, "alexnet", 224, "depth", swap=True)
    assert not list((cache / "swap").iterdir()), "nothing is left on the disk"


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("model", "size", "scheme"), [("vgg16", 64, "rows"), ("vgg11", 224, "depth"), ("alexnet", 224, "auto")]
)
def test_every_scheme_keeps_to_the_limit_while_it_swaps(cache: Path, model: str, size: int, scheme: str) -> None:
    expect_kept(cache, model, size, scheme, swap=True)


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("model", SIZES)
def test_every_worker_keeps_to_its_limit_with_every_model(tmp_path: Path, model: str, scheme: str) -> None:
    expect_kept(tmp_path, model, SIZES[model], scheme)
