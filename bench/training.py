"""Training: a step of distributed layers, predicted and measured, layer by layer.

    python -m bench.training [--ranks 2] [--batch 8] [--rounds 15] [--cost-repeats 7] [--json]
    python -m bench.training --cpu 0.2 [--rate 1gbit] …        (root) each rank a node of the emulated cluster

A master and workers as processes over ZeroMQ, one thread each. Their rates and the costs of training's passes are measured
first (`fogconv.calibration`); then each conv, a DistributedConv2d that is distributed whatever it costs, does steps:
forward with new weights, both gradients. The prediction is `fogconv simulate --train`'s for the same shards. Layers take
turns, round by round.

A pass costs what its fastest repeat takes: what a device can do where other programs run beside it. Without --cpu, on
loopback, the prediction is compared with the fastest step. With --cpu passes are measured before the quotas apply, for
these let ranks run in bursts, and stretched by them; the prediction is compared with the median step.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from bench.fog.run import ENVIRONMENT
from bench.fog.testbed import FogBed
from fogconv.analysis.training.step import LayerStep, distributed_s
from fogconv.calibration.calibration import calibrate
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
PORT = 5555
READY = "compiled"
COLD = 1.1
"""Under a quota a node returns to cold caches every period, which costs a tenth more than the missing time: see
`bench.fog.rates`."""
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
    measured_s: float
    median_s: float

    @property
    def error(self) -> float:
        return self.predicted.total_s / self.measured_s - 1


def one_thread(program: Program, weights: Mapping[str, Any], host: Any) -> Executable:
    """The master's process, on one thread like all others."""
    return Executable(program, weights, threads=1, host=host)


def worker(address: str) -> list[str]:
    return [sys.executable, "-m", "fogconv", "worker", "--bind", address, "--threads", "1", "--insecure"]


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"


@contextlib.contextmanager
def on_loopback(workers: int) -> Iterator[list[str]]:
    """The addresses of so many workers of this machine."""
    with contextlib.ExitStack() as stack:
        addresses = [free_address() for _ in range(workers)]
        for address in addresses:
            process = subprocess.Popen(worker(address), stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        yield addresses


def in_nodes(options: argparse.Namespace) -> int:
    """Run this bench with every rank in a node of its own. Quotas apply once all is compiled. Returns the exit code."""
    with FogBed(options.ranks, options.rate) as bed:
        environment = os.environ | ENVIRONMENT
        addresses = [f"tcp://{node.address}:{PORT}" for node in bed.nodes[1:]]
        for node, address in zip(bed.nodes[1:], addresses, strict=True):
            bed.popen(node.index, worker(address), stderr=subprocess.DEVNULL, env=environment)
        given = [
            f"--{name.replace('_', '-')}={getattr(options, name)}" for name in ("cpu", "batch", "rounds", "cost_repeats")
        ]
        given += ["--json"] if options.json else []
        command = [sys.executable, "-m", "bench.training", "--master", ",".join(addresses), *given]
        pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
        master = bed.popen(0, command, text=True, env=environment, **pipes)
        assert master.stdin is not None and master.stderr is not None
        for line in master.stderr:
            if line.strip() == READY:
                bed.set_cpu(options.cpu)
                master.stdin.write("\n")
                master.stdin.flush()
            else:
                sys.stderr.write(line)
        return master.wait()


def measured_topology(session: Session, costs: Mapping[int, Mapping[str, float]], longer: float) -> Topology:
    """``costs``: of training's passes by rank, which now take ``longer``."""
    topology = calibrate(session).topology()  # it measures links for longer than a shaper's burst lasts
    for rank, found in costs.items():
        training = {key: cost * longer for key, cost in found.items()}
        topology = topology.replace_device(rank, replace(topology.devices[rank], training=training))
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


def measure(addresses: Sequence[str], batch: int, rounds: int, repeats: int, share: float | None) -> list[Row]:
    torch.set_num_threads(1)
    with connect(addresses, connect_timeout_s=120.0, local=one_thread, insecure=True, timeout_s=600.0) as session:
        specs = {name: replace(spec, batch=batch) for name, spec in LAYERS.items()}
        trained = {name: Trained(session, spec) for name, spec in specs.items()}
        for layer in trained.values():
            layer.step()
            layer.seconds.clear()  # it compiled
        costs = measure_training(session, repeats=repeats, middle=min)
        if share is not None:
            print(READY, file=sys.stderr, flush=True)
            sys.stdin.readline()
        topology = measured_topology(session, costs, 1.0 if share is None else COLD / share)
        for _ in range(rounds):
            for layer in trained.values():
                layer.step()
        rows = []
        for name, layer in trained.items():
            times = distributed_s(specs[name], layer.shards, topology)
            which = tuple(shard.rank for shard in layer.shards)
            predicted = LayerStep(name, specs[name], layer.split, which, "", *times)
            median_s = statistics.median(layer.seconds)
            rows.append(Row(name, predicted, min(layer.seconds) if share is None else median_s, median_s))
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cost-repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--cpu", type=float, help="share of a core of each node of the emulated cluster")
    parser.add_argument("--rate", default="1gbit", help="of the emulated cluster's links")
    parser.add_argument("--master", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cpu is not None and not options.master:
        sys.exit(in_nodes(options))
    settings = options.batch, options.rounds, options.cost_repeats
    if options.master:
        rows = measure(options.master.split(","), *settings, options.cpu)
    else:
        with on_loopback(options.ranks - 1) as addresses:
            rows = measure(addresses, *settings, None)
    predicted, measured = sum(row.predicted.total_s for row in rows), sum(row.measured_s for row in rows)
    if options.json:
        layers = [
            row.predicted.as_json() | {"measured_s": row.measured_s, "median_s": row.median_s, "error": row.error}
            for row in rows
        ]
        found = {"predicted_s": predicted, "measured_s": measured, "error": predicted / measured - 1, "goal": GOAL}
        print(json.dumps(vars(options) | found | {"layers": layers}))
        return
    print("ms                    split      forward  grad x  grad w  transfers   predicted measured  median    error")
    for row in rows:
        step = row.predicted
        terms = "".join(f"{1e3 * term:8.2f}" for term in (step.forward_s, step.input_s, step.weight_s, step.transfers_s))
        times = f"{1e3 * step.total_s:12.2f}{1e3 * row.measured_s:9.2f}{1e3 * row.median_s:8.2f}"
        print(f"{row.name:22}{step.split:10}{terms}{times}{row.error:+9.0%}")
    print(f"all: predicted {1e3 * predicted:.1f} ms, measured {1e3 * measured:.1f} ms, {predicted / measured - 1:+.0%}")


if __name__ == "__main__":
    main()
