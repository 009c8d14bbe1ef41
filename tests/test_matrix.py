"""Whatever the model, the number of workers, the transport and the scheme: the output is torch's."""

from __future__ import annotations

import pickle
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fogconv.cluster.connect import connect
from fogconv.cluster.executor.executors import executor
from fogconv.ir.layers import Conv, Host
from fogconv.planning.schemes import STREAMS
from tests import seeded_models as models
from tests.cluster.launch import free_port, mpirun, process, wait_until_listening
from tests.matrix import (
    RESIDENT_MODELS,
    RESIDENT_RANKS,
    RESIDENT_SCHEMES,
    STAR_WORKERS,
    TRANSPORTS,
    Cell,
    between_processes,
    check,
    executor_cells,
    image,
    reference,
    resident_cells,
    run_cell,
    star_cells,
)

WORKER = "import sys; sys.modules['torch'] = None; from fogconv.cli.app import main_worker; main_worker()"
"""A worker to which torch can't be imported."""


def _parameters(cells: list[Cell], *marks: pytest.MarkDecorator) -> list[object]:
    return [pytest.param(cell, id=str(cell), marks=marks) for cell in cells]


STAR = _parameters(star_cells(full=False)) + _parameters(star_cells(full=True), pytest.mark.full)
RESIDENT = _parameters(resident_cells(full=False)) + _parameters(resident_cells(full=True), pytest.mark.full)

EXECUTORS = _parameters(executor_cells(full=False)) + _parameters(executor_cells(full=True), pytest.mark.full)


@pytest.fixture(scope="module")
def workers() -> Iterator[list[str]]:
    """The addresses of as many ZeroMQ workers as the largest cell wants, processes of their own."""
    with ExitStack() as stack:
        ports = [free_port() for _ in range(max(STAR_WORKERS))]
        for port in ports:
            address = f"tcp://127.0.0.1:{port}"
            stack.enter_context(process(sys.executable, "-c", WORKER, "--bind", address, "--threads", "1"))
        for port in ports:
            wait_until_listening(port)
        yield [f"tcp://127.0.0.1:{port}" for port in ports]


class Launches:
    """The outputs of all MPI cells that this session has chosen, one launch per number of workers."""

    def __init__(self, cells: list[Cell], folder: Path) -> None:
        self._by_workers: dict[int, list[Cell]] = defaultdict(list)
        for cell in cells:
            self._by_workers[cell.workers].append(cell)
        self._folder = folder
        self._outputs: dict[Cell, NDArray[np.float32]] = {}

    def output(self, cell: Cell) -> NDArray[np.float32]:
        if cell not in self._outputs:
            self._launch(cell.workers)
        return self._outputs[cell]

    def _launch(self, workers: int) -> None:
        cells = self._by_workers.pop(workers)
        folder = self._folder / str(workers)
        folder.mkdir()
        work = [(cell, self._graph(cell), image(cell.model, cell.size)) for cell in cells]
        (folder / "cells.pickle").write_bytes(pickle.dumps(work))
        done = mpirun(workers + 1, "-m", "tests.matrix_program", str(folder), timeout_s=60 + 60 * len(cells))
        assert done.returncode == 0, done.stderr[-3000:]
        for number, cell in enumerate(cells):
            self._outputs[cell] = np.load(folder / f"{number}.npy")

    def _graph(self, cell: Cell) -> str:
        path = self._folder / f"{cell.model}@{cell.size}.pickle"
        if not path.exists():
            path.write_bytes(pickle.dumps(models.graph(cell.model, cell.size), protocol=5))
        return str(path)


@pytest.fixture(scope="module")
def launches(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Launches:
    chosen = [item.callspec.params.get("cell") for item in request.session.items if hasattr(item, "callspec")]
    cells = [cell for cell in chosen if isinstance(cell, Cell) and cell.transport == "mpi"]
    return Launches(cells, tmp_path_factory.mktemp("mpi"))


@pytest.mark.parametrize("cell", STAR)
def test_with_every_conv_forced_out_the_output_is_torchs(cell: Cell, request: pytest.FixtureRequest) -> None:
    if cell.transport == "mpi":
        check(cell, request.getfixturevalue("launches").output(cell))
        return
    where: str | list[str] = f"inproc://{cell.workers}"
    if cell.transport == "zmq":
        where = request.getfixturevalue("workers")[: cell.workers]
    graph, x = models.graph(cell.model, cell.size), image(cell.model, cell.size)
    with connect(where, threads=1) as session:
        engine, output = run_cell(cell, graph, x, session)
    check(cell, output)
    for layer, placement in zip(graph.layers, engine.plan.placements, strict=True):
        if isinstance(layer, Conv) and not layer.linear:
            assert placement.mode == "star", layer.name
            assert {work.rank for work in placement.work} - {0}, layer.name


@pytest.mark.parametrize("cell", _parameters(between_processes()))
def test_halos_and_frames_between_processes_are_torchs(cell: Cell, request: pytest.FixtureRequest) -> None:
    if cell.transport == "mpi":
        check(cell, request.getfixturevalue("launches").output(cell))
        return
    graph, x = models.graph(cell.model, cell.size), image(cell.model, cell.size)
    with connect(request.getfixturevalue("workers")[: cell.workers], threads=1) as session:
        engine, output = run_cell(cell, graph, x, session)
    check(cell, output)
    if cell.scheme not in STREAMS:
        assert {cell.scheme} <= {placement.mode for placement in engine.plan.placements}
    assert engine.plan.active_ranks == set(range(cell.workers + 1))


@pytest.mark.parametrize("cell", RESIDENT)
def test_with_activations_left_on_the_workers_the_output_is_torchs(cell: Cell) -> None:
    graph, x = models.graph(cell.model, cell.size), image(cell.model, cell.size)
    with connect(f"inproc://{cell.workers}", threads=1) as session:
        engine, output = run_cell(cell, graph, x, session)
    check(cell, output)
    if cell.scheme != "pipeline" or sum(not isinstance(layer, Host) for layer in graph.layers) > 1:  # one layer is one stage
        assert engine.plan.active_ranks > {0}, "nothing was distributed"


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
@pytest.mark.parametrize("cell", EXECUTORS)
def test_workers_that_compute_in_torch_serve_the_same_programs(cell: Cell, device: str) -> None:
    graph, x = models.graph(cell.model, cell.size), image(cell.model, cell.size)
    with connect(f"inproc://{cell.workers}", threads=1, build=executor(f"torch:{device}")) as session:
        engine, output = run_cell(cell, graph, x, session)
        assert len({info.kernels for info in session.workers}) == 1
    check(cell, output)
    assert engine.plan.active_ranks > {0}, "nothing was distributed"


@pytest.mark.parametrize(
    ("cells", "axes"),
    [
        (star_cells(full=False), {"model": models.ENGINE_MODELS, "workers": STAR_WORKERS, "transport": TRANSPORTS}),
        (
            resident_cells(full=False),
            {"model": RESIDENT_MODELS, "scheme": RESIDENT_SCHEMES, "workers": tuple(n - 1 for n in RESIDENT_RANKS)},
        ),
    ],
    ids=["star", "resident"],
)
def test_the_quick_subset_has_every_pair(cells: list[Cell], axes: dict[str, tuple[object, ...]]) -> None:
    for first, second in combinations(axes, 2):
        met = {(getattr(cell, first), getattr(cell, second)) for cell in cells}
        assert met == {(a, b) for a in axes[first] for b in axes[second]}


def test_the_check_can_tell() -> None:
    cell = star_cells(full=False)[0]
    right = reference(cell.model, cell.size).single
    off = right.copy()
    off.flat[0] += 3e-4 * np.abs(right).max()
    with pytest.raises(AssertionError, match="of the largest value"):
        check(cell, off)
