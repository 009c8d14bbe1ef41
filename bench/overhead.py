"""The engine's overhead per layer: programs of the shape of a star over resnet18, with empty kernels and 64-byte
payloads.

    python -m bench.overhead [--workers 4] [--layers 20] [--transport zmq|ipc|inproc] [--json]

The master sends one block of 16 channels to every worker, each sends one back, layer after layer: the latency of the
engine's own code, of the transport and of waking up. Workers are processes on this machine, on loopback; with ipc over Unix
sockets.
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
from typing import Annotated

import numpy as np
import typer

from fogconv.cluster.connect import connect
from fogconv.cluster.session.session import Session
from fogconv.errors import ConnectError
from fogconv.ir import steps as ir
from fogconv.ir.geometry import Region
from fogconv.ir.program import Program

PIECE = Region.whole(16, 1, 1)
"""16 channels of fp32: 64 bytes."""
GOAL_MS = 0.5
WARM_UP = 5


def star_programs(layers: int, workers: int) -> list[Program]:
    """Rank 0 sends 64 bytes to each worker and awaits 64 from each, ``layers`` times; nothing is computed."""
    buffers = (ir.Buffer("x", PIECE), ir.Buffer("y", PIECE))
    ranks = range(1, workers + 1)
    master: list[ir.AnyStep] = [ir.Input(0, 0, 0, PIECE)]
    steps: dict[int, list[ir.AnyStep]] = {rank: [] for rank in ranks}
    for layer in range(layers):
        for rank in ranks:
            tag = 1 + 2 * (layer * workers + rank)
            master.append(ir.Send(layer, 0, PIECE, rank, tag))
            steps[rank].append(ir.Recv(layer, 0, PIECE, 0, tag))
            steps[rank].append(ir.Send(layer, 0, PIECE, 0, tag + 1))
        master += [ir.Recv(layer, 1, PIECE, rank, 2 + 2 * (layer * workers + rank)) for rank in ranks]
    master.append(ir.Output(layers - 1, 0, 1, PIECE))
    names = tuple(f"layer {layer}" for layer in range(layers))
    parts = [(0, master), *steps.items()]
    return [Program(rank, workers + 1, 1, names, buffers, tuple(part), {}) for rank, part in parts]


@contextlib.contextmanager
def worker_processes(transport: str, count: int) -> Iterator[list[str]]:
    """Workers on free ports of loopback, or on Unix sockets; their addresses."""
    addresses, children = [], []
    folder = tempfile.TemporaryDirectory(prefix="fogconv-")
    try:
        for number in range(count):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            addresses.append(f"ipc://{folder.name}/{number}" if transport == "ipc" else f"tcp://127.0.0.1:{port}")
            command = [sys.executable, "-m", "fogconv.cli.commands.worker", "--bind", addresses[-1], "--threads", "1"]
            children.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
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
    with worker_processes(transport, workers) as addresses:
        deadline = time.monotonic() + 60.0
        while True:
            try:
                session = connect(addresses)
                break
            except ConnectError:
                if time.monotonic() > deadline:
                    raise
        with session:
            yield session


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
    transport: Annotated[str, typer.Option(help="zmq (TCP on loopback), ipc or inproc.")] = "zmq",
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
