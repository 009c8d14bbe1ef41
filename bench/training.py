"""Training: a step of distributed layers, predicted and measured, layer by layer.

    python -m bench.training [--ranks 2] [--batch 8] [--rounds 15] [--cost-repeats 7] [--json]

A master and workers as processes over ZeroMQ on loopback, one thread each. Their rates and the costs of training's passes
are measured first (`fogconv.calibration`); then each conv, a DistributedConv2d that is distributed whatever it costs, does
steps: forward with new weights, both gradients. The prediction is `fogconv simulate --train`'s for the same shards. Layers
take turns, round by round. What counts is the fastest step, and the fastest of each pass's repeats: that is what the
devices can do where other programs run beside them, so that both sides are comparable; ``median`` stands beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from fogconv.analysis.training.step import LayerStep, distributed_s
from fogconv.calibration.calibration import calibrate_quickly
from fogconv.calibration.training import measure_training
from fogconv.cluster.connect import connect
from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.session.session import Session
from fogconv.hardware.topology import Topology
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.program import Program
from fogconv.nn import DistributedConv2d
from fogconv.nn.attached import attached

GOAL = 0.15
_PAD = (1, 1, 1, 1)
LAYERS = {
    "3×3 64→64 56×56": ConvSpec(64, 64, 56, 56, (3, 3), padding=_PAD),
    "3×3 128→128 28×28": ConvSpec(128, 128, 28, 28, (3, 3), padding=_PAD),
    "3×3 256→256 14×14": ConvSpec(256, 256, 14, 14, (3, 3), padding=_PAD),
    "3×3 512→512 7×7": ConvSpec(512, 512, 7, 7, (3, 3), padding=_PAD),
    "3×3/2 128→256 28×28": ConvSpec(128, 256, 28, 28, (3, 3), stride=(2, 2), padding=_PAD),
    "1×1 256→64 56×56": ConvSpec(256, 64, 56, 56, (1, 1)),
    "1×1 512→512 14×14": ConvSpec(512, 512, 14, 14, (1, 1)),
    "5×5 64→192 27×27": ConvSpec(64, 192, 27, 27, (5, 5), padding=(2, 2, 2, 2)),
}
"""ResNets' convs, and AlexNet's."""


@dataclass(frozen=True, slots=True)
class Row:
    """Seconds of one layer's step."""

    name: str
    predicted: LayerStep
    fastest_s: float
    median_s: float

    @property
    def error(self) -> float:
        return self.predicted.total_s / self.fastest_s - 1


def one_thread(program: Program, weights: Mapping[str, Any], host: Any) -> Executable:
    """The master's process, on one thread like all others."""
    return Executable(program, weights, threads=1, host=host)


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[Session]:
    with contextlib.ExitStack() as stack:
        addresses = []
        for _ in range(workers):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                addresses.append(f"tcp://127.0.0.1:{free.getsockname()[1]}")
            command = [sys.executable, "-m", "fogconv", "worker", "--bind", addresses[-1], "--threads", "1"]
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        yield stack.enter_context(connect(addresses, connect_timeout_s=120.0, local=one_thread))


def measured_topology(session: Session, repeats: int) -> Topology:
    topology = calibrate_quickly(session, refresh=True).topology
    for rank, costs in measure_training(session, repeats=repeats, middle=min).items():
        topology = topology.replace_device(rank, replace(topology.devices[rank], training=costs))
    return topology


class Trained:
    """One conv that does steps."""

    def __init__(self, session: Session, spec: ConvSpec) -> None:
        generator = torch.Generator().manual_seed(0)
        self.conv = DistributedConv2d(
            spec.in_channels,
            spec.out_channels,
            spec.kernel,
            spec.stride,
            (spec.padding[0], spec.padding[2]),
            bias=False,
            cluster=session,
            threshold=0,
            on_loss="raise",
        )
        self.x = torch.randn(spec.input_shape, generator=generator).requires_grad_()
        self.grad = torch.randn(spec.output_shape, generator=generator)
        verdict = attached(session).decide(session, spec, "auto", self.conv.options)
        self.shards, self.split = verdict.shards, verdict.split
        self.seconds: list[float] = []

    def step(self) -> None:
        self.x.grad = self.conv.weight.grad = None
        with torch.no_grad():
            self.conv.weight.mul_(0.999)  # as an optimiser: the weights are sent again
        begin = time.perf_counter()
        self.conv(self.x).backward(self.grad)
        self.seconds.append(time.perf_counter() - begin)


def measure(ranks: int, batch: int, rounds: int, repeats: int) -> list[Row]:
    torch.set_num_threads(1)
    with cluster(ranks - 1) as session:
        topology = measured_topology(session, repeats)
        specs = {name: replace(spec, batch=batch) for name, spec in LAYERS.items()}
        trained = {name: Trained(session, spec) for name, spec in specs.items()}
        for turn in range(rounds + 1):
            for layer in trained.values():
                layer.step()
                if not turn:
                    layer.seconds.clear()  # it compiled
        rows = []
        for name, layer in trained.items():
            times = distributed_s(specs[name], layer.shards, topology)
            which = tuple(shard.rank for shard in layer.shards)
            predicted = LayerStep(name, specs[name], layer.split, which, "", *times)
            rows.append(Row(name, predicted, min(layer.seconds), statistics.median(layer.seconds)))
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cost-repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    rows = measure(options.ranks, options.batch, options.rounds, options.cost_repeats)
    predicted, fastest = sum(row.predicted.total_s for row in rows), sum(row.fastest_s for row in rows)
    if options.json:
        layers = [
            row.predicted.as_json() | {"fastest_s": row.fastest_s, "median_s": row.median_s, "error": row.error}
            for row in rows
        ]
        found = {"predicted_s": predicted, "fastest_s": fastest, "error": predicted / fastest - 1, "goal": GOAL}
        print(json.dumps(vars(options) | found | {"layers": layers}))
        return
    print("ms                    split      forward  grad x  grad w  transfers   predicted  fastest  median    error")
    for row in rows:
        step = row.predicted
        terms = "".join(f"{1e3 * term:8.2f}" for term in (step.forward_s, step.input_s, step.weight_s, step.transfers_s))
        measured = f"{1e3 * step.total_s:12.2f}{1e3 * row.fastest_s:9.2f}{1e3 * row.median_s:8.2f}"
        print(f"{row.name:22}{step.split:10}{terms}{measured}{row.error:+9.0%}")
    print(f"all: predicted {1e3 * predicted:.1f} ms, measured {1e3 * fastest:.1f} ms, {predicted / fastest - 1:+.0%}")


if __name__ == "__main__":
    main()
