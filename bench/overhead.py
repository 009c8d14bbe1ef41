"""The engine's overhead per layer: programs of the shape of a star over resnet18, with empty kernels and 64-byte
payloads.

    python -m bench.overhead [--workers 4] [--layers 20] [--transport zmq|curve|ipc|inproc] [--json]

The master sends one block of 16 channels to every worker, each sends one back, layer after layer: the latency of the
engine's own code, of the transport and of waking up. Workers are processes on this machine, on loopback; with ipc over Unix
sockets, with curve encrypted.
"""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from fogconv.cluster.connect import connect
from fogconv.cluster.protocol.keys import write_keys
from fogconv.cluster.session.session import Session
from fogconv.errors import ConnectError
from fogconv.ir import steps as ir
from fogconv.ir.geometry import Region
from fogconv.ir.program import Program

PIECE = Region.whole(16, 1, 1)
"""16 channels of fp32: 64 bytes."""
GOAL_MS = 0.5
WARM_UP = 5


def star_programs(layers: int, workers: int, piece: Region = PIECE) -> list[Program]:
    """Rank 0 sends a piece to each worker and awaits one from each, ``layers`` times; nothing is computed."""
    buffers = (ir.Buffer("x", piece), ir.Buffer("y", piece))
    ranks = range(1, workers + 1)
    master: list[ir.AnyStep] = [ir.Input(0, 0, 0, piece)]
    steps: dict[int, list[ir.AnyStep]] = {rank: [] for rank in ranks}
    for layer in range(layers):
        for rank in ranks:
            tag = 1 + 2 * (layer * workers + rank)
            master.append(ir.Send(layer, 0, piece, rank, tag))
            steps[rank].append(ir.Recv(layer, 0, piece, 0, tag))
            steps[rank].append(ir.Send(layer, 0, piece, 0, tag + 1))
        master += [ir.Recv(layer, 1, piece, rank, 2 + 2 * (layer * workers + rank)) for rank in ranks]
    master.append(ir.Output(layers - 1, 0, 1, piece))
    names = tuple(f"layer {layer}" for layer in range(layers))
    parts = [(0, master), *steps.items()]
    return [Program(rank, workers + 1, 1, names, buffers, tuple(part), {}) for rank, part in parts]


@contextlib.contextmanager
def worker_processes(transport: str, count: int, keys: Path | None = None) -> Iterator[list[str]]:
    """Workers on free ports of loopback, or on Unix sockets; their addresses. ``keys``: of a worker, whose links are then
    encrypted."""
    addresses, children = [], []
    folder = tempfile.TemporaryDirectory(prefix="fogconv-")
    security = [] if keys is None else ["--keys", str(keys)]
    try:
        for number in range(count):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            addresses.append(f"ipc://{folder.name}/{number}" if transport == "ipc" else f"tcp://127.0.0.1:{port}")
            command = [
                sys.executable,
                "-m",
                "fogconv.cli.commands.worker",
                "--bind",
                addresses[-1],
                "--threads",
                "1",
                *security,
            ]
            children.append(subprocess.Popen([*command, *security], stderr=subprocess.DEVNULL))
        yield addresses
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait()
        folder.cleanup()


@contextlib.contextmanager
def cluster(transport: str, workers: int) -> Iterator[Session]:
    if transport == "inproc":
        with connect(f"inproc://{workers}") as session:
            yield session
        return
    with contextlib.ExitStack() as stack:
        own, theirs = stack.enter_context(_keys()) if transport == "curve" else (None, None)
        addresses = stack.enter_context(worker_processes(transport, workers, theirs))
        deadline = time.monotonic() + 60.0
        while True:
            try:
                session = connect(addresses, keys=own)
                break
            except ConnectError:
                if time.monotonic() > deadline:
                    raise
        with session:
            yield session


@contextlib.contextmanager
def _keys() -> Iterator[tuple[Path, Path]]:
    """Folders with the keys of a master and of its workers, which share theirs."""
    with tempfile.TemporaryDirectory(prefix="fogconv-") as folder:
        own, theirs = Path(folder, "master"), Path(folder, "workers")
        ours, of_workers = write_keys(own), write_keys(theirs)
        (own / "workers").write_text(f"127.0.0.1 {of_workers.public}\n")
        (theirs / "masters").write_text(f"{ours.public}\n")
        yield own, theirs


def measure(session: Session, layers: int, repeats: int) -> list[float]:
    """Milliseconds per layer, run by run, warm."""
    loaded = session.load(star_programs(layers, len(session.workers)), {})
    x = np.ones((1, *PIECE.shape), np.float32)
    runs = [session.run(loaded, [x]).latency_s * 1e3 / layers for _ in range(WARM_UP + repeats)]
    session.unload(loaded)
    return runs[WARM_UP:]


def main(
    workers: Annotated[int, typer.Option(min=1)] = 4,
    layers: Annotated[int, typer.Option(min=1)] = 20,
    repeats: Annotated[int, typer.Option(min=1)] = 100,
    transport: Annotated[str, typer.Option(help="zmq (TCP on loopback), curve (encrypted), ipc or inproc.")] = "zmq",
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    with cluster(transport, workers) as session:
        runs = measure(session, layers, repeats)
    result = {
        "transport": transport,
        "workers": workers,
        "layers": layers,
        "ms_per_layer_median": statistics.median(runs),
        "ms_per_layer_best": min(runs),
        "ms_per_layer_p95": sorted(runs)[int(0.95 * len(runs))],
        "goal_ms_per_layer": GOAL_MS,
    }
    if as_json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:22} {value if not isinstance(value, float) else round(value, 3)}")


if __name__ == "__main__":
    typer.run(main)
