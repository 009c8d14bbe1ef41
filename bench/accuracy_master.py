"""The master of bench.model_accuracy, inside node 0: calibrates under the quota, plans the star, runs, reports every term.

python -m bench.accuracy_master FOLDER TASK        TASK is a Task as JSON

It is asked four things, in this order: MEASURE (quota on), LOAD (quota off), then as many inferences as wanted (quota on).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from bench.fog.cgroup import quota_and_period_us
from bench.fog.conversation import Facts, Voice
from bench.fog.master import Subject
from fogconv.calibration import FULL, measure_link
from fogconv.cluster.connect import connect
from fogconv.cluster.interpreter import Executable
from fogconv.cluster.loaded import Loaded
from fogconv.cluster.measure import conv_seconds
from fogconv.cluster.session import Session
from fogconv.geometry import ConvSpec
from fogconv.kernels import wire
from fogconv.kernels.blocked import Blocked
from fogconv.lower import lower
from fogconv.plan import Plan
from fogconv.prediction import star_terms
from fogconv.predictors import Predictor, Sample, fit, random_convs
from fogconv.program import Program
from fogconv.report import layer_reports
from fogconv.speedup import Terms
from fogconv.star import plan_star
from fogconv.topology import Device, Link, Topology

MEASURE, LOAD = -1, -2
CPU = 0.2
"""Each node's share of a core."""
PERIOD_S = quota_and_period_us(CPU)[1] * 1e-6


class Task(msgspec.Struct, frozen=True):
    """``net`` and where the workers are. ``samples``: random convs that the predictor learns from."""

    net: str
    cluster: str
    samples: int = 300
    predictor: str = "boosted"


class Master:
    def __init__(self, task: Task, session: Session) -> None:
        torch.set_num_threads(1)
        self.task, self.session = task, session
        self.subject = Subject(task.net)
        # Without the quota, by the thread's own time: kernels do the same work whatever the quota is.
        specs = random_convs(task.samples, seed=3, most_macs=2_000_000_000)
        seconds = conv_seconds(specs, Executable, repeats=2, least_s=0.01, clock=time.thread_time)
        self.predictor: Predictor = fit(task.predictor, [Sample(s, t) for s, t in zip(specs, seconds, strict=True)])
        session.measure(FULL[:2], repeats=1)
        self.topology: Topology
        self.slower: list[float] = []
        self.plan: Plan
        self.programs: tuple[Program, ...]
        self.loaded: Loaded
        self.terms: dict[int, Terms] = {}

    def answer(self, number: int) -> Facts:
        if number == MEASURE:
            return self.measure()
        if number == LOAD:
            return self.load()
        return self.run(number)

    def measure(self) -> Facts:
        """Under the quota: how much slower each node is than its kernels' own time, and every link."""
        probe = FULL[:2]
        own = [self.predictor.seconds(spec) for spec in probe]
        seconds: list[Sequence[float]] = [conv_seconds(probe, Executable, least_s=0.4)]
        answers = self.session.measure(probe, repeats=20)
        seconds += [answers[rank].seconds for rank in sorted(answers)]
        self.slower = [float(np.mean([t / o for t, o in zip(found, own, strict=True)])) for found in seconds]
        links: dict[tuple[int, int], Link] = {}
        alphas = []
        for worker in self.session.workers:
            there, back, _ = measure_link(self.session, worker.rank, rounds=12, probe_s=0.15)
            for link in (there, back):
                links[link.origin, link.to] = Link(link.alpha_s, link.beta_s_per_element / 4)
                alphas.append(link.alpha_s)
        copy = cut_s_per_byte()
        devices = [
            Device(f"node {rank}", {"default": 1e-10 * slow}, copy, 2e-5 * slow) for rank, slow in enumerate(self.slower)
        ]
        self.topology = Topology(tuple(devices), links)
        return {"slower": self.slower, "alpha_s": alphas, "beta": [link.s_per_byte for link in links.values()], "copy": copy}

    def seconds(self, rank: int, spec: ConvSpec) -> float:
        return under_quota(self.predictor.seconds(spec), self.slower[rank])

    def load(self) -> Facts:
        graph = self.subject.graph
        self.plan = plan_star(graph, self.topology, threshold=0, master_computes=False, seconds=self.seconds)
        lowered = lower(graph, self.plan)
        self.programs = lowered.programs
        self.loaded = self.session.load(lowered.programs, lowered.weights, host=self.subject.host)
        self.session.run(self.loaded, [self.subject.image])
        self.terms = star_terms(self.programs, self.topology, self.seconds)
        return {"splits": [placement.split for placement in self.plan.placements]}

    def run(self, repeats: int) -> Facts:
        found = []
        for _ in range(repeats):
            self.session.synchronise()
            result = self.session.run(self.loaded, [self.subject.image])
            reports = layer_reports(self.subject.graph, self.plan, self.programs, result.times, convs_only=False)
            found.append(
                {
                    "latency_s": result.latency_s,
                    "layers": [
                        {
                            "name": report.name,
                            "split": report.split,
                            "predicted": vars_of(self.terms[index]),
                            "measured": report.measured,
                            "bytes_tx": report.bytes_tx,
                            "bytes_rx": report.bytes_rx,
                        }
                        for index, report in enumerate(reports)
                        if report.distributed and index in self.terms
                    ],
                }
            )
        return {"runs": found}


def cut_s_per_byte(least_s: float = 0.5) -> float:
    """What cutting a region out of a map takes, by the clock, in seconds per byte: the map does not fit into a cache."""
    source = Blocked.empty(1, 64, 224, 224)
    out = np.empty(source.batch * 64 * 224 * 224, np.float32)
    extract = wire.bind_extract(source, 0, 64, out)
    extract()
    runs, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < least_s:
        extract()
        runs += 1
    return (time.perf_counter() - begin) / runs / out.nbytes


def under_quota(cpu_s: float, slower: float) -> float:
    """Seconds for so much work of a rank that waited before: it begins anywhere in a period, with that period's quota whole.

    The emulated node works in bursts; a real slow device does not. On average over where in the period the work begins.
    """
    quota = PERIOD_S / slower
    total, phases = 0.0, 50
    for phase in range(phases):
        rest_of_period = PERIOD_S * (phase + 0.5) / phases
        first = min(quota, rest_of_period)
        if cpu_s <= first:
            total += cpu_s
            continue
        periods, left = divmod(cpu_s - first, quota)
        total += rest_of_period + periods * PERIOD_S + left
    return total / phases


def vars_of(terms: Terms) -> dict[str, float]:
    return {**asdict(terms), "total_s": terms.total_s}


def main(folder: Path, text: str) -> None:
    task = msgspec.json.decode(text, type=Task)

    def local(program: Program, weights: Any, host: Any) -> Executable:
        return Executable(program, weights, threads=1, host=host)

    with connect(task.cluster, local=local, timeout_s=600.0, connect_timeout_s=60.0, insecure=True) as session:
        master = Master(task, session)
        Voice(folder).serve({}, master.answer)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
