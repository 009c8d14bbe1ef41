"""Weights beyond the memory limit: predicted and measured seconds of an inference that reads them from disks, by layer.

    python -m bench.swap [--net alexnet] [--memory 400M] [--rate 20MB/s] [--workers 2] [--scheme depth] [--json]

Two clusters of worker processes on this machine, over loopback, with a plan for each. In one all ranks have a memory limit,
and read swapped weights no faster than --rate (disk: as fast as the disk is); the other has none. Devices, links and disks
are measured first. ``peak`` is the most that a worker's process held.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from fogconv.analysis.layer_report import LayerReport, layer_reports
from fogconv.calibration.calibration import calibrate_quickly
from fogconv.cli.options.hardware import limited
from fogconv.cli.options.values import BANDWIDTH, MEMORY
from fogconv.cluster.connect import connect
from fogconv.cluster.executor.executors import executor
from fogconv.cluster.executor.interface import Runnable
from fogconv.frontend.network import network_graph
from fogconv.hardware.units import bandwidth_bytes_per_s
from fogconv.ir.arrays import Array
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv
from fogconv.ir.layout import MASTER
from fogconv.ir.memory.footprint import Packing
from fogconv.ir.memory.swapping import read_bytes
from fogconv.ir.program import Program
from fogconv.kernels.conv.conv import PreparedConv2d
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.engine import Engine
from fogconv.runtime.run_options import RunOptions
from fogconv.storage.swap_file import SwapFolder
from fogconv.zoo.model_request import ModelRequest

AS_IT_IS = "disk"


@dataclass(frozen=True)
class Side:
    """One cluster's result. Seconds; ``read`` in bytes per inference by rank, ``peaks`` in bytes by worker, ``disks`` in
    bytes/s by rank."""

    predicted_s: float
    measured_s: float
    layers: tuple[LayerReport, ...]
    read: tuple[int, ...]
    peaks: tuple[int, ...]
    disks: tuple[float, ...]


class Paced(dict[str, Array]):
    """The master's weights, swapped to a folder of a certain pace."""

    def __init__(self, weights: Mapping[str, Array], swap: SwapFolder) -> None:
        super().__init__(weights)
        self.swap = swap

    def find(self, packing: Packing) -> None:
        """Nothing is packed yet."""

    def keep(self, packing: Packing, prepared: PreparedConv2d, *, last: bool) -> None:
        """Nothing is shared."""


@contextlib.contextmanager
def worker_processes(count: int, flags: Sequence[str]) -> Iterator[dict[str, int]]:
    """Workers on free ports of loopback, by address, with their pids."""
    children: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for _ in range(count):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
            command = [sys.executable, "-m", "fogconv", "worker", "--bind", address, "--threads", "1", *flags]
            children[address] = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        yield {address: child.pid for address, child in children.items()}
    finally:
        for child in children.values():
            child.terminate()
        for child in children.values():
            child.wait()


def run(graph: LayerGraph, scheme: str, count: int, memory: int | None, rate: str, repeats: int) -> Side:
    """Plan and run on workers with this limit and pace, or without a limit."""
    with tempfile.TemporaryDirectory(prefix="fogconv-swap-") as folder, contextlib.ExitStack() as stack:
        flags = ["--swap-folder", folder]
        flags += [] if memory is None else ["--memory", str(memory)]
        flags += [] if rate == AS_IT_IS else ["--swap-rate", rate]
        pids = stack.enter_context(worker_processes(count, flags))
        pace = 0.0 if rate == AS_IT_IS else bandwidth_bytes_per_s(rate)
        own = SwapFolder(Path(folder), pace)

        def local(program: Program, weights: Mapping[str, Array], host: Any) -> Runnable:
            return executor()(program, Paced(weights, own), threads=1, host=host)

        session = stack.enter_context(connect(list(pids), connect_timeout_s=60.0, local=local))
        topology = calibrate_quickly(session, cache=Path(folder) / "rates", disks=True).topology
        if pace:
            # Each process has its own pace, as if it were a machine with a disk of its own.
            apart = tuple(replace(device, machine="") for device in topology.devices)
            topology = limited(replace(topology, devices=apart), None, pace, ranks=[MASTER])
        options = PlanOptions(scheme, threshold=0.0, allow_swap=True)
        run_options = RunOptions(adapt=False, threads=1, memory_bytes=memory)
        engine = Engine(graph, session, topology, options, run_options)
        x = np.random.default_rng(0).standard_normal(graph.picture.shape, np.float32)
        engine.run(x)
        runs = sorted((engine.run(x) for _ in range(repeats)), key=lambda each: each.latency_s)
        typical = runs[len(runs) // 2]
        layers = layer_reports(graph, typical.plan, typical.programs, typical.run.times, convs_only=False)
        return Side(
            engine.plan.predicted_s or 0.0,
            statistics.median(each.latency_s for each in runs),
            tuple(report for layer, report in zip(graph.layers, layers, strict=True) if isinstance(layer, Conv)),
            tuple(read_bytes(program) for program in engine.programs),
            tuple(_peak_bytes(pid) for pid in pids.values()),
            tuple(device.read_bytes_per_s for device in engine.topology.devices),
        )


def _peak_bytes(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return 0 if found is None else 1024 * int(found[1])


def answer(swapped: Side, whole: Side, first: int, memory: int) -> dict[str, Any]:
    """What is printed. ``first``: the index of the first fully connected layer among the convs."""

    def pair(side: Side, index: int) -> dict[str, float]:
        layer = side.layers[index]
        return {"predicted_s": layer.predicted["total_s"] or 0.0, "measured_s": layer.measured["total_s"] or 0.0}

    def both(index: int) -> dict[str, Any]:
        return {"name": whole.layers[index].name, "swapped": pair(swapped, index), "whole": pair(whole, index)}

    return {
        "first_linear": both(first),
        "inference": {
            "swapped": {"predicted_s": swapped.predicted_s, "measured_s": swapped.measured_s},
            "whole": {"predicted_s": whole.predicted_s, "measured_s": whole.measured_s},
        },
        "layers": [both(index) for index in range(len(whole.layers))],
        "read_bytes": list(swapped.read),
        "disk_bytes_per_s": list(swapped.disks),
        "peak_of_limit": [peak / memory for peak in swapped.peaks],
        "peak_bytes_without_limit": list(whole.peaks),
    }


def show(found: dict[str, Any]) -> None:
    print(f"{'':16} {'swapped':>21} {'without a limit':>21}")
    print(f"{'ms':16} {'predicted':>10} {'measured':>10} {'predicted':>10} {'measured':>10}")
    for name, of in (*((each["name"], each) for each in found["layers"]), ("inference", found["inference"])):
        figures = [of[side][term] * 1e3 for side in ("swapped", "whole") for term in ("predicted_s", "measured_s")]
        print(f"{name[-16:]:16} " + " ".join(f"{figure:10.1f}" for figure in figures))
    print(f"from disk: {', '.join(f'{n / 1e6:.0f} MB' for n in found['read_bytes'])} per inference, by rank")
    print(f"disks: {', '.join(f'{n / 1e6:.0f} MB/s' for n in found['disk_bytes_per_s'])}")
    print(f"peak of the limit: {', '.join(f'{each:.2f}' for each in found['peak_of_limit'])}, by worker")


def main(
    net: str = "alexnet",
    memory: Annotated[int, typer.Option(parser=MEMORY)] = 400_000_000,
    rate: str = "20MB/s",
    workers: int = 2,
    scheme: str = "depth",
    repeats: int = 3,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    if rate != AS_IT_IS:
        BANDWIDTH(rate)
    graph = network_graph(ModelRequest(net, "random", None, False))
    swapped = run(graph, scheme, workers, memory, rate, repeats)
    whole = run(graph, scheme, workers, None, rate, repeats)
    convs = [layer for layer in graph.layers if isinstance(layer, Conv)]
    first = next(index for index, layer in enumerate(convs) if layer.linear)
    settings = {"net": net, "scheme": scheme, "memory_bytes": memory, "rate": rate}
    found = settings | answer(swapped, whole, first, memory)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        show(found)


if __name__ == "__main__":
    typer.run(main)
