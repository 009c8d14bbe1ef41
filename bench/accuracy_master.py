"""The master of bench.model_accuracy, inside node 0: calibrates, plans the star, runs, reports every term.

python -m bench.accuracy_master FOLDER TASK        TASK is a Task as JSON

The order of its requests: "measure", "pings", "rehearse" (quota on), "load" (quota off), then any number of inferences
(quota on).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from sklearn.linear_model import LinearRegression

from bench.fog.cgroup import quota_and_period_us
from bench.fog.conversation import Facts, NodeEnd
from bench.fog.master import Subject
from bench.made_up import made_up
from fogconv.analysis.layer_report import layer_reports
from fogconv.analysis.simulation.processor import after_rest_s
from fogconv.analysis.simulation.simulator import simulate
from fogconv.analysis.star_terms import simulated_terms, star_terms
from fogconv.calibration.devices import FULL, TINY
from fogconv.calibration.links import measure_link
from fogconv.calibration.sample_sizes import random_convs
from fogconv.cluster.connect import connect
from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.executor.microbenchmark import conv_seconds
from fogconv.cluster.session.loaded_program import Loaded
from fogconv.cluster.session.session import Session
from fogconv.hardware.latency_models import Predictor, fit
from fogconv.hardware.latency_samples import Sample
from fogconv.hardware.profile import Profile
from fogconv.hardware.topology import Device, Link, Topology
from fogconv.ir import program as ir
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.graph import Conv
from fogconv.ir.plan import Plan
from fogconv.ir.program import Program
from fogconv.kernels.maps import wire
from fogconv.kernels.maps.blocked import Blocked
from fogconv.lowering.lower import lower
from fogconv.planning.scheme_options import SchemeOptions
from fogconv.planning.star import plan_star
from fogconv.speedup.model import Terms
from fogconv.speedup.trigger import Seconds

STAR = SchemeOptions(threshold=0, master_computes=False)
CPU = 0.2
"""Each node's share of a core."""
PERIOD_S = quota_and_period_us(CPU)[1] * 1e-6
PAUSE_S = 5e-4
REHEARSAL, REHEARSAL_SIZES = (48, 96, 192, 384), (32, 112)
"""Channels, stage by stage, of the synthetic net that measures the cost of messages between convs. With the smaller
image, of so many rows, the messages dominate; with the larger one the bytes."""
RUNS = 300
"""Repeats of each probe: with fewer, a node's position in its period at the start and end would matter."""


class Task(msgspec.Struct, frozen=True):
    """``net`` and the workers' addresses. ``samples``: random convs to fit the predictor. ``keep``: a folder for the
    measurements."""

    net: str
    cluster: str
    samples: int = 300
    predictor: str = "boosted"
    keep: str = ""


class Question(msgspec.Struct, frozen=True):
    """What to do. ``there_bytes``, ``back_bytes``: the sizes of each of ``count`` pings with the first worker.
    ``byte_cpu_s``: processor seconds by the nodes' control groups, for a sent byte and for a received one, of the master
    and of a worker; ``rehearsal_cpu_s`` the same of each node, for one inference of the rehearsal."""

    do: str
    count: int = 1
    there_bytes: int = 0
    back_bytes: int = 0
    byte_cpu_s: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 0.0), (0.0, 0.0))
    rehearsal_cpu_s: tuple[tuple[float, ...], ...] = ()
    which: int = 0


class Master:
    def __init__(self, task: Task, session: Session) -> None:
        torch.set_num_threads(1)
        self.task, self.session = task, session
        self.subject = Subject(task.net)
        self.rehearsals = [Rehearsal(session, size) for size in REHEARSAL_SIZES]
        # Without the quota, by the thread's own time: kernels do the same work whatever the quota is.
        specs = random_convs(task.samples, seed=3, most_macs=2_000_000_000)
        seconds = conv_seconds(specs, Executable, repeats=2, least_s=0.01, clock=time.thread_time)
        self.predictor: Predictor = fit(task.predictor, [Sample(s, t) for s, t in zip(specs, seconds, strict=True)])
        [self.step_s] = conv_seconds([TINY], Executable, clock=time.thread_time)
        session.measure(FULL[:2], repeats=1)
        # Links are measured without the quota as well; the processor time of a message is measured separately.
        self.links: dict[tuple[int, int], Link] = {}
        for worker in session.workers:
            there, back, _ = measure_link(session, worker.rank, rounds=24, probe_s=0.15)
            for link in (there, back):
                self.links[link.origin, link.to] = Link(
                    link.alpha_s, link.beta_s_per_element / 4, burst_bytes=link.burst_bytes
                )
        self.slower: list[float] = []
        self.share, self.tick_s, self.cut = 1.0, 0.0, 0.0
        self.topology: Topology
        self.plan: Plan
        self.programs: tuple[Program, ...]
        self.loaded: Loaded
        self.terms: dict[int, Terms] = {}
        self.formula: dict[int, Terms] = {}

    def answer(self, asked: Any) -> Facts:
        question = msgspec.convert(asked, Question)
        match question.do:
            case "measure":
                return self.measure()
            case "pings":
                for _ in range(question.count):
                    self.session.ping(1, question.there_bytes, question.back_bytes)
                return {}
            case "rehearse":
                self.rehearsals[question.which].run(question.count)
                return {}
            case "load":
                return self.load(question)
            case _:
                return self.run(question.count)

    def measure(self) -> Facts:
        """Under the quota: by how much it stretches work, and how much slower than their own time each node's kernels
        are."""
        probe = FULL[:2]
        own = [self.predictor.seconds(spec) for spec in probe]
        seconds: list[Sequence[float]] = [conv_seconds(probe, Executable, repeats=RUNS)]
        answers = self.session.measure(probe, repeats=RUNS)
        seconds += [answers[rank].seconds for rank in sorted(answers)]
        slower = [float(np.mean([t / o for t, o in zip(found, own, strict=True)])) for found in seconds]
        # All nodes have the same share of the same machine, so differences between them are measurement errors.
        self.slower = [float(np.mean(slower))] * len(slower)
        self.cut = cut_s_per_byte()
        self.share, self.tick_s = quota()
        return {"slower": slower, "share": self.share, "tick_s": self.tick_s, "copy": self.cut}

    def seconds(self, rank: int, spec: ConvSpec) -> float:
        """Seconds in the long run."""
        return self.predictor.seconds(spec) * self.slower[rank]

    def after_rest_s(self, rank: int, spec: ConvSpec) -> float:
        return after_rest_s(self.topology.devices[rank], self.seconds(rank, spec))

    def load(self, question: Question) -> Facts:
        devices = []
        for rank, slower in enumerate(self.slower):
            send, receive = (cpu_s / self.share for cpu_s in question.byte_cpu_s[min(rank, 1)])
            devices.append(
                Device(
                    f"node {rank}",
                    {"default": 1e-10 * slower},
                    self.cut,
                    self.step_s * slower,
                    send_s_per_byte=send,
                    receive_s_per_byte=receive,
                    share=self.share,
                    period_s=PERIOD_S,
                    tick_s=self.tick_s,
                )
            )
        in_long_run = [[cpu_s / self.share for cpu_s in found] for found in question.rehearsal_cpu_s]
        self.topology = priced(self.rehearsals, Topology(tuple(devices), self.links), in_long_run, self.seconds)
        graph = self.subject.graph
        self.plan = plan_star(graph, self.topology, STAR, seconds=self.after_rest_s)
        lowered = lower(graph, self.plan)
        self.programs = lowered.programs
        self.loaded = self.session.load(lowered.programs, lowered.weights, host=self.subject.host)
        self.session.run(self.loaded, [self.subject.image])
        self.terms = simulated_terms(graph, self.plan, self.programs, self.topology, self.seconds)
        self.formula = star_terms(self.programs, self.topology, self.after_rest_s)
        if self.task.keep:
            self.keep_programs(Path(self.task.keep))
        return {
            "splits": [placement.split for placement in self.plan.placements],
            "convs_alone_s": sum(self.seconds(0, layer.spec) for layer in graph.layers if isinstance(layer, Conv)),
            "profile": msgspec.to_builtins(Profile.of(self.topology)),
        }

    def run(self, repeats: int) -> Facts:
        """Run inferences back to back; the report is computed when all are done."""
        self.session.synchronise()
        results = [self.session.run(self.loaded, [self.subject.image]) for _ in range(repeats)]
        found = []
        for number, result in enumerate(results):
            if self.task.keep:
                times: Mapping[str, Any] = {str(rank): each for rank, each in result.times.items()}
                np.savez(Path(self.task.keep, f"times-{number}.npz"), **times)
            reports = layer_reports(self.subject.graph, self.plan, self.programs, result.times, convs_only=False)
            found.append(
                {
                    "latency_s": result.latency_s,
                    "layers": [
                        {
                            "name": report.name,
                            "split": report.split,
                            "predicted": vars_of(self.terms[index]),
                            "formula": vars_of(self.formula[index]),
                            "measured": report.measured,
                            "bytes_tx": report.bytes_tx,
                            "bytes_rx": report.bytes_rx,
                        }
                        for index, report in enumerate(reports)
                        if report.distributed and index in self.formula
                    ],
                }
            )
        return {"runs": found}

    def keep_programs(self, folder: Path) -> None:
        """Store the programs, the times of their convs, and the topology."""
        folder.mkdir(parents=True, exist_ok=True)
        for earlier in folder.glob("times-*.npz"):
            earlier.unlink()
        for program in self.programs:
            (folder / f"rank-{program.rank}.program").write_bytes(ir.encode(program))
        convs = [
            (program.rank, step.spec) for program in self.programs for step in program.steps if isinstance(step, ir.Conv)
        ]
        prices = [(rank, msgspec.to_builtins(spec), self.predictor.seconds(spec)) for rank, spec in convs]
        facts = {"prices": prices, "slower": self.slower, "profile": msgspec.to_builtins(Profile.of(self.topology))}
        (folder / "facts.json").write_bytes(msgspec.json.encode(facts))


class Rehearsal:
    """A synthetic net, distributed like the tested ones: it measures the cost of a message between convs.

    Successive pings find their code and data in the caches; messages between convs don't.
    """

    def __init__(self, session: Session, size: int) -> None:
        graph = made_up(size, REHEARSAL)
        plan = plan_star(graph, Topology.uniform(len(session.workers) + 1, 1e10, 1e8), STAR)
        lowered = lower(graph, plan)
        self.programs = lowered.programs
        self.session = session
        self.loaded = session.load(lowered.programs, lowered.weights)
        self.image = np.random.default_rng(0).standard_normal(graph.tensors[graph.input].shape, np.float32)
        self.run(2)

    def run(self, repeats: int) -> None:
        for _ in range(repeats):
            self.session.run(self.loaded, [self.image])

    def processor_s(self, topology: Topology, seconds: Seconds) -> Sequence[float]:
        """The simulated processor time of an inference, per rank."""
        return simulate(self.programs, topology, seconds=seconds, keep_events=False).processor_s

    @property
    def messages(self) -> list[int]:
        """The number of messages of each rank, including those that start and end an inference."""
        found = [2 + sum(isinstance(step, ir.Send | ir.Recv) for step in program.steps) for program in self.programs]
        return [found[0] + 2 * len(self.programs) - 4, *found[1:]]


def priced(
    rehearsals: Sequence[Rehearsal], topology: Topology, measured_s: Sequence[Sequence[float]], seconds: Seconds
) -> Topology:
    """The topology with the costs of messages and bytes from two rehearsals, one with many bytes and one with few: their
    time beyond the convs.

    ``measured_s``: the processor time of an inference of each, per rank, in the long run. The ratio of sending to
    receiving a byte is that of the pings. The workers, which are equal, are averaged, because a worker with few messages
    alone would give a poor estimate.
    """
    free = _with_messages(topology, topology.ranks, 0.0, 0.0)
    bytes_only = _with_messages(topology, topology.ranks, 0.0, 1.0)
    for ranks in (topology.ranks[:1], topology.ranks[1:]):
        rows, rest = [], []
        for rehearsal, measured in zip(rehearsals, measured_s, strict=True):
            without, with_bytes = rehearsal.processor_s(free, seconds), rehearsal.processor_s(bytes_only, seconds)
            rows.append([sum(rehearsal.messages[rank] for rank in ranks), sum(with_bytes[r] - without[r] for r in ranks)])
            rest.append(sum(measured[rank] - without[rank] for rank in ranks))
        message_s, times = LinearRegression(fit_intercept=False, positive=True).fit(rows, rest).coef_.tolist()
        topology = _with_messages(topology, ranks, message_s, times)
    return topology


def _with_messages(topology: Topology, ranks: Sequence[int], message_s: float, times: float) -> Topology:
    """The topology with this time per message on these ranks, and with their time per byte multiplied by a factor."""
    for rank in ranks:
        device = topology.devices[rank]
        device = replace(
            device,
            message_s=message_s,
            send_s_per_byte=times * device.send_s_per_byte,
            receive_s_per_byte=times * device.receive_s_per_byte,
        )
        topology = topology.replace_device(rank, device)
    return topology


def quota(least_s: float = 2.0) -> tuple[float, float]:
    """(share, tick_s) of this processor: the share of time in which it runs, and the longest run without a pause.
    Measured by reading the clock in a loop: a large step is a pause."""
    begin = start = last = time.perf_counter()
    runs = []
    while last - begin < least_s:
        now = time.perf_counter()
        if now - last > PAUSE_S:
            runs.append(last - start)
            start = now
        last = now
    return sum(runs) / (start - begin), float(np.quantile(runs, 0.9))


def cut_s_per_byte(least_s: float = 0.5) -> float:
    """The time to cut a region out of a map, in seconds per byte; the map does not fit into a cache."""
    source = Blocked.empty(1, 64, 224, 224)
    out = np.empty(source.batch * 64 * 224 * 224, np.float32)
    extract = wire.bind_extract(source, 0, 64, out)
    extract()
    runs, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < least_s:
        extract()
        runs += 1
    return (time.perf_counter() - begin) / runs / out.nbytes


def vars_of(terms: Terms) -> dict[str, float]:
    return {**asdict(terms), "total_s": terms.total_s}


def main(folder: Path, text: str) -> None:
    task = msgspec.json.decode(text, type=Task)

    def local(program: Program, weights: Any, host: Any) -> Executable:
        return Executable(program, weights, threads=1, host=host)

    with connect(task.cluster, local=local, timeout_s=600.0, connect_timeout_s=60.0, insecure=True) as session:
        master = Master(task, session)
        NodeEnd(folder).serve({}, master.answer)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
