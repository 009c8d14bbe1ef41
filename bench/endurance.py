"""``python -m bench.endurance``: a day's inferences of a small network, with a worker lost and rejoined every so many.

The workers are threads of this process with a ZeroMQ endpoint each, so that one process holds all that could leak: sockets,
descriptors, threads, packed weights and maps, of both ends. Every other loss strikes in the middle of an inference. Reported
as JSON: descriptors, threads and memory after a tenth and at the end, whenever the cluster is whole.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
import warnings
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import psutil
import typer
from rich.console import Console

from fogconv.cluster.session.session import Session
from fogconv.cluster.transport.zeromq.endpoint import ZeromqEndpoint
from fogconv.cluster.worker.server import Worker
from fogconv.cluster.worker.system import trim
from fogconv.hardware.topology import Topology
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv, Layer, Tensor
from fogconv.kernels import reference
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.engine import Engine
from fogconv.runtime.run_options import RunOptions

TOLERANCE = 1e-4
DAY = 20_000
"""Inferences of a camera that looks every four seconds, for 24 hours."""
QUICK = 1_000
HEARTBEAT_S = 0.5
"""Short: what is of interest is what a loss leaves behind, not how long it takes to notice."""
PATIENCE_S = 30.0
GROWTH = 1.02
"""Memory at the end, of what it was after a tenth, that still counts as flat; and so many megabytes of chance."""
CHANCE_MB = 8.0
KINDS = 4
"""Of losses, in turns: after one of them ten descriptors are open until the next loss, after the others none."""


@dataclass(frozen=True)
class Held:
    """What the process holds."""

    inferences: int
    fds: int
    threads: int
    rss_mb: float


def network() -> tuple[LayerGraph, list[tuple[ConvSpec, Array, Array]]]:
    """Three convs, (1, 8, 16, 16) → (1, 32, 16, 16), and their specs, weights and biases."""
    rng = np.random.default_rng(5)
    tensors, layers, convs = [Tensor("x", 1, 8, 16, 16)], [], []
    weights: dict[str, Array] = {}
    for number, channels in enumerate((32, 32, 32), start=1):
        c = tensors[-1].channels
        spec = ConvSpec(c, channels, 16, 16, (3, 3), padding=(1, 1, 1, 1))
        weight = rng.standard_normal(spec.weight_shape, np.float32) / np.float32(np.sqrt(9 * c))
        bias = rng.standard_normal(channels, np.float32)
        weights[f"w{number}"], weights[f"b{number}"] = weight, bias
        layer: Layer = Conv(f"conv{number}", number - 1, number, spec, f"w{number}", f"b{number}", "relu", None)
        layers.append(layer)
        tensors.append(Tensor(f"t{number}", 1, channels, 16, 16))
        convs.append((spec, weight, bias))
    return LayerGraph.single("small", tuple(tensors), tuple(layers), 0, 3, (1, 32, 16, 16), weights), convs


class Place:
    """Workers under addresses that stay theirs."""

    def __init__(self, count: int) -> None:
        self._served: dict[int, tuple[Worker, ZeromqEndpoint, threading.Thread]] = {}
        self.addresses: list[str] = []
        for number in range(count):
            self.addresses.append(self.start(number, "tcp://127.0.0.1:*"))

    def start(self, number: int, address: str = "") -> str:
        endpoint = ZeromqEndpoint(address or self.addresses[number], heartbeat_s=HEARTBEAT_S)
        worker = Worker(endpoint)
        thread = threading.Thread(target=self._serve, args=(worker,), daemon=True, name=f"worker-{number}")
        thread.start()
        self._served[number] = worker, endpoint, thread
        return endpoint.address

    def _serve(self, worker: Worker) -> None:
        try:
            worker.serve()
        except Exception:
            # Its endpoint was closed under it, as a killed process's is.
            worker.stop()

    def lose(self, number: int, *, orderly: bool) -> None:
        """``orderly``: with a farewell; otherwise as if the process were killed."""
        worker, endpoint, _ = self._served[number]
        if orderly:
            worker.stop()
        else:
            endpoint.close()

    def end(self, number: int) -> None:
        worker, endpoint, thread = self._served.pop(number)
        worker.stop()
        thread.join(PATIENCE_S)
        endpoint.close()

    def close(self) -> None:
        for number in list(self._served):
            self.end(number)


def endure(inferences: int, workers: int, every: int, say: Any = lambda line: None) -> dict[str, Any]:
    """Run so many inferences with a loss (and a return) every ``every``; the facts."""
    graph, convs = network()
    images = [np.random.default_rng(seed).standard_normal((1, 8, 16, 16), np.float32) for seed in range(4)]
    answers = []
    for image in images:
        x = image.astype(np.float64)
        for spec, weight, bias in convs:
            x = reference.activate(reference.conv2d(x, weight, bias, spec), "relu")
        answers.append(x)
    place = Place(workers)
    session = Session(
        ZeromqEndpoint(heartbeat_s=HEARTBEAT_S), place.addresses, timeout_s=PATIENCE_S, connect_timeout_s=PATIENCE_S
    )
    topology = Topology.uniform(workers + 1, 1e9, 1e10, 1e-6, copy_s_per_byte=1e-11, step_s=1e-7)
    engine = Engine(graph, session, topology, PlanOptions("rows"), RunOptions(adapt=False))
    process, samples, begin = psutil.Process(), [], time.monotonic()
    right = losses = returns = 0
    done = 0

    def infer() -> None:
        nonlocal right, done
        number = done % len(images)
        output = engine.run(images[number]).output
        off = float(np.abs(output - answers[number]).max()) / float(np.abs(answers[number]).max())
        right += off <= TOLERANCE
        done += 1

    def whole() -> None:
        deadline = time.monotonic() + PATIENCE_S
        while len(engine.ranks) <= workers and time.monotonic() < deadline:
            time.sleep(0.02)
            infer()

    due = max(1, inferences // 10)
    try:
        while done < inferences:
            for _ in range(min(every // 2, inferences - done)):
                infer()
            if done >= inferences:
                break
            lost, orderly = losses % workers, losses % KINDS == 1
            if losses % 2:
                place.lose(lost, orderly=orderly)
            else:
                strike = threading.Timer(0.0005, place.lose, (lost,), {"orderly": orderly})
                strike.start()
                infer()
                strike.join()
            losses += 1
            for _ in range(max(1, every // 4)):
                infer()
            place.end(lost)
            place.start(lost)
            whole()
            returns += len(engine.ranks) == workers + 1
            if done >= due * (len(samples) + 1):
                gc.collect()
                trim()
                held = process.memory_info().rss / 1e6
                samples.append(Held(done, process.num_fds(), process.num_threads(), held))
                say(f"{done}: {samples[-1]}")
    finally:
        engine.close()
        session.close()
        place.close()
    first, last = samples[0], samples[-1]
    early, late = (max(sample.fds for sample in some) for some in (samples[:KINDS], samples[-KINDS:]))
    return {
        "inferences": done,
        "right": right,
        "losses": losses,
        "returns": returns,
        "seconds": time.monotonic() - begin,
        "at_10_percent": asdict(first),
        "at_the_end": asdict(last),
        "samples": [asdict(sample) for sample in samples],
        "flat": late <= early and last.threads <= first.threads and last.rss_mb <= GROWTH * first.rss_mb + CHANCE_MB,
    }


def main(
    inferences: Annotated[int, typer.Option(help="Inferences in all.")] = DAY,
    workers: Annotated[int, typer.Option(help="Workers beside the master.")] = 3,
    every: Annotated[int, typer.Option(help="A worker is lost, and comes back, in every so many inferences.")] = 50,
    quick: Annotated[bool, typer.Option("--quick", help=f"{QUICK} inferences: less than two minutes.")] = False,
) -> None:
    """Descriptors, threads and memory after a tenth and at the end, as JSON."""
    warnings.simplefilter("ignore", ResourceWarning)
    console = Console(stderr=True)
    found = endure(QUICK if quick else inferences, workers, every, lambda line: console.print(line, highlight=False))
    print(json.dumps(found))
    if not found["flat"] or found["right"] != found["inferences"]:
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
