"""Case: one stream in one bed, in turns with whole frames on each node alone."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from bench.fog.conversation import Contender, Facts
from bench.fog.job import Job as AloneJob
from bench.fog.run import ENVIRONMENT, LOAD_TIMEOUT_S, PORT, RUN_TIMEOUT_S, calibrated, shaped_like, start
from bench.fog.testbed import FogBed
from bench.streams.master import Job
from fogconv.frontend.network import network_graph
from fogconv.hardware.topology import Topology
from fogconv.ir.memory.footprint import PROCESS_BYTES
from fogconv.planning.memory import needed_bytes
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.zoo.model_request import ModelRequest

Say = Callable[[str], None]
SLOWER = 4.0
SETTLED = 10
"""Frames after a slowdown within which the stream is to run at the rate that is left."""


class Setup(msgspec.Struct, frozen=True):
    """``memory_limited``: every node has a third of what packed weights and maps take. ``slowed``: one node runs at a
    quarter of its share for three quarters of a further stream."""

    net: str
    nodes: int
    memory_limited: bool = False
    slowed: bool = False
    like: str = "pi4"
    cpu: float = 0.1
    rounds: int = 3
    frames: int = 8
    """Per node and round."""


def third_bytes(net: str) -> int:
    """The limit of a node: a process, and a third of the weights and maps of the net on one node."""
    graph = network_graph(ModelRequest.for_shapes(net, None, False))
    topology = Topology.uniform(1, 1e9, 1e9)
    whole = needed_bytes(graph, plan(graph, topology, PlanOptions("local")), topology)[0]
    return PROCESS_BYTES + whole // 3


def measure(setup: Setup, say: Say) -> Facts:
    """Medians over the rounds. A node that is limited is compared with one that is not."""
    shares = (setup.cpu,) * setup.nodes
    limit = third_bytes(setup.net) if setup.memory_limited else 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fogconv-streams-")))
        bed = stack.enter_context(FogBed(setup.nodes, "1gbit"))
        likeness = shaped_like(setup.like, setup.net, None, shares, bed, folder, say)
        bed.set_cpu(None)
        say("loading fogconv on each node alone")
        alone = [
            _alone(stack, bed, folder, setup.net, node, setup.cpu)
            for node in range(1 if setup.memory_limited else setup.nodes)
        ]
        say(f"loading fogconv on {setup.nodes} nodes")
        all_nodes = start(stack, bed, folder, "all", _cluster(setup, bed, folder / "all", shares, limit))
        for contender in (*alone, all_nodes):
            contender.receive(LOAD_TIMEOUT_S)
        for contender in alone:
            calibrated(bed, contender, shares)
        facts = calibrated(bed, all_nodes, shares)
        say(f"plan: {facts['scheme']}, {facts['predicted_frames_per_s']:.3g} frames/s: {'; '.join(facts['lanes'])}")
        alone_rates: list[float] = []
        stream_rates: list[float] = []
        slowed: list[float] = []
        worst = 0.0
        for number in range(setup.rounds):
            bed.set_cpu(shares)
            each = _rates(alone)
            alone_rates.append(sum(each) if not setup.memory_limited else setup.nodes * each[0])
            run = all_nodes.run(setup.frames * setup.nodes, RUN_TIMEOUT_S)
            worst = max(worst, run["max_relative_error"])
            stream_rates.append(steady(run["stamps"], setup.nodes))
            ratio = stream_rates[-1] / alone_rates[-1]
            say(f"round {number + 1} of {setup.rounds}: {stream_rates[-1]:.3f} frames/s, {ratio:.3f} of the nodes alone")
            if setup.slowed:
                slowed.append(_slowed(bed, all_nodes, setup, shares, stream_rates[-1]))
                say(f"  one node slowed: {slowed[-1]:.3f} of what is left")
            bed.set_cpu(None)
    ratios = [mine / theirs for mine, theirs in zip(stream_rates, alone_rates, strict=True)]
    return {
        "net": setup.net,
        "nodes": setup.nodes,
        "memory_limited": setup.memory_limited,
        "frames_ratio": statistics.median(ratios),
        "frames_ratios": ratios,
        "frames_per_s": statistics.median(stream_rates),
        "alone_frames_per_s": statistics.median(alone_rates),
        "predicted_frames_per_s": facts["predicted_frames_per_s"],
        "scheme": facts["scheme"],
        "lanes": facts["lanes"],
        "slowed_ratio": statistics.median(slowed) if slowed else None,
        "max_relative_error": worst,
        "like": likeness.as_dict(),
        "cpu": setup.cpu,
        "memory_bytes": limit or None,
    }


def steady(stamps: Sequence[float], first: int) -> float:
    """Frames per second after the first ones."""
    return (len(stamps) - first) / (stamps[-1] - stamps[first - 1])


def _rates(alone: Sequence[Contender]) -> list[float]:
    """Frames per second of each node, all at the same time."""
    with ThreadPoolExecutor(len(alone)) as pool:
        answers = list(pool.map(lambda each: each.run(4, RUN_TIMEOUT_S), alone))
    return [1 / statistics.median(answer["seconds"][1:]) for answer in answers]


def _slowed(bed: FogBed, all_nodes: Contender, setup: Setup, shares: Sequence[float], rate: float) -> float:
    """Frames per second from SETTLED frames after a slowdown, over what the nodes' shares then allow."""
    frames = 4 * setup.frames * setup.nodes
    left = [*shares[:-1], shares[-1] / SLOWER]
    when_s = frames / rate / 4
    timer = threading.Timer(when_s, bed.set_cpu, [left])
    begin = time.monotonic()
    timer.start()
    stamps = all_nodes.run(frames, RUN_TIMEOUT_S)["stamps"]
    timer.cancel()
    assert time.monotonic() - begin > when_s, "the stream ended before the slowdown"
    after = next(number for number, stamp in enumerate(stamps) if stamp > when_s)
    settled = stamps[min(after + SETTLED, len(stamps) - 2) :]
    found = (len(settled) - 1) / (settled[-1] - settled[0])
    return found / (rate * sum(left) / sum(shares))


def _alone(stack: ExitStack, bed: FogBed, folder: Path, net: str, node: int, share: float) -> Contender:
    contender = stack.enter_context(Contender(folder / f"alone {node}", f"alone {node}"))
    job = msgspec.json.encode(AloneJob(net, "inproc://0", (share,), "local")).decode()
    command = [sys.executable, "-m", "bench.fog.driver", str(folder / f"alone {node}"), job]
    log = stack.enter_context(contender.log.open("w"))
    environment = os.environ | ENVIRONMENT
    contender.process = bed.popen(node, command, stdout=log, stderr=log, env=environment, stdin=subprocess.DEVNULL)
    return contender


def _cluster(setup: Setup, bed: FogBed, folder: Path, shares: tuple[float, ...], limit: int) -> list[list[Any]]:
    addresses = [f"tcp://{node.address}:{PORT}" for node in bed.nodes[1:]]
    memory = ["--memory", limit] if limit else []
    worker = [sys.executable, "-m", "fogconv", "worker", "--threads", 1, "--insecure", *memory]
    job = Job(setup.net, ",".join(addresses), shares, memory_bytes=limit)
    driver = ["-m", "bench.streams.master", folder, msgspec.json.encode(job).decode()]
    return [*([*worker, "--bind", address] for address in addresses), driver]
