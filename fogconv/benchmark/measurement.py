"""Measurement: the fixed set on the ranks of a session.

Nets need no torch: their graphs come with the package, and their weights are seeded, in 8 bits next to
all 0: time does not depend on them.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Literal

import numpy as np
import psutil

from fogconv.benchmark.fixed_set import KERNELS, PAYLOAD_BYTES, QUICK, SET, WHOLE, Effort
from fogconv.benchmark.record import VERSION, Item, Machine, Record
from fogconv.calibration.cache import Master, Worker
from fogconv.calibration.calibration import calibrate_quickly
from fogconv.calibration.devices import device_samples
from fogconv.calibration.members import machines_of, master
from fogconv.cluster.session.session import Session
from fogconv.cluster.worker.machine import OtherWork, processor
from fogconv.errors import PlannerError
from fogconv.frontend.zoo_graphs import graph as zoo_graph
from fogconv.hardware.topology import Topology
from fogconv.ir.precision.elements import Element
from fogconv.planning.memory import needed_bytes
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan as make_plan
from fogconv.quantization.precision import check_precision, for_shapes
from fogconv.runtime.engine import Engine
from fogconv.runtime.run_options import RunOptions

MOST_MEMORY = 0.9
"""The part of the free memory that a net may take."""

LOOK_S = 0.5
"""For so long the work of others is watched."""

ELEMENTS: Mapping[str, Element] = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "int8": "uint8", "auto": "uint8"}
"""What kernels multiply in each precision."""

Progress = Callable[[str], None]


def measure(
    session: Session,
    cluster: str,
    *,
    quick: bool = False,
    precision: str = "fp32",
    progress: Progress = lambda text: None,
) -> Record:
    """The whole set, or with ``quick`` a part of it. ``progress`` is called with what is measured next.

    A net that does not fit into memory is left out, with the reason. Raises the cluster's errors, and InputError for an
    unknown precision.
    """
    check_precision(precision)
    effort, element = QUICK if quick else WHOLE, ELEMENTS[precision]
    begin, wall = time.time(), time.monotonic()
    progress("other work here")
    load, others = os.getloadavg()[0], OtherWork()
    time.sleep(LOOK_S)  # before anything runs: workers on this machine are other processes too
    other_cores = others.cores()
    items = [*_kernels(session, element, effort, progress), *_links(session, effort, progress)]
    skipped: dict[str, str] = {}
    progress("rates, for the plans")
    topology = calibrate_quickly(session, elements={element} - {"fp32"}).topology
    for name in effort.nets:
        progress(name)
        found = _net(session, topology, name, precision, effort)
        if isinstance(found, Item):
            items.append(found)
        else:
            skipped[name] = found
    members: list[Worker | Master] = [master(), *sorted(session.workers, key=lambda worker: worker.rank)]
    return Record(
        VERSION,
        SET,
        quick,
        begin,
        time.monotonic() - wall,
        cluster,
        processor(),
        {"python": platform.python_version(), **{name: version(name) for name in ("fogconv", "numpy", "numba")}},
        load,
        other_cores,
        tuple(_machine(member) for member in members),
        tuple(items),
        skipped,
        precision,
    )


def _machine(member: Worker | Master) -> Machine:
    there = member.machine
    return Machine(
        member.rank,
        member.host,
        len(there.cpus),
        there.quota_cores,
        member.threads,
        member.isa,
        member.kernels,
        member.software,
    )


def _item(group: Literal["kernels", "links", "nets"], name: str, seconds: Sequence[float], detail: str = "") -> Item:
    first, median, third = statistics.quantiles(seconds, n=4, method="inclusive")
    return Item(group, name, median, (first, third), len(seconds), detail)


def _kernels(session: Session, element: Element, effort: Effort, progress: Progress) -> Iterator[Item]:
    ranks = machines_of(session)
    specs = tuple(replace(spec, element=element) for spec in KERNELS.values())
    times: dict[int, list[list[float]]] = {rank: [] for rank in ranks}
    for number in range(effort.passes):
        progress(f"kernels, pass {number + 1} of {effort.passes}")
        for rank, samples in device_samples(session, specs, ranks=ranks).items():
            times[rank].append([sample.seconds for sample in samples])
    for rank, passes in times.items():
        for name, seconds in zip(KERNELS, zip(*passes, strict=True), strict=True):
            yield _item("kernels", f"rank {rank}: {name}", seconds)


def _links(session: Session, effort: Effort, progress: Progress) -> Iterator[Item]:
    for rank in sorted(worker.rank for worker in session.workers):
        progress(f"link to worker {rank}")
        session.ping(rank, PAYLOAD_BYTES)  # opens TCP's window
        empty = [session.ping(rank) for _ in range(effort.rounds)]
        yield _item("links", f"0↔{rank}: a message", [(trip.there_s + trip.back_s) / 2 for trip in empty])
        there = [session.ping(rank, PAYLOAD_BYTES, 0).there_s for _ in range(effort.rounds)]
        yield _item("links", f"0→{rank}: 1 MB", there)
        back = [session.ping(rank, 0, PAYLOAD_BYTES).back_s for _ in range(effort.rounds)]
        yield _item("links", f"{rank}→0: 1 MB", back)


def _net(session: Session, topology: Topology, name: str, precision: str, effort: Effort) -> Item | str:
    """The item, or the reason why there is none."""
    shapes = for_shapes(zoo_graph(name), precision)
    try:
        needed = needed_bytes(shapes, make_plan(shapes, topology), topology)[0]
    except PlannerError as error:
        return str(error)
    needed += sum(weight.size * weight.itemsize for weight in shapes.weights.values())
    free = psutil.virtual_memory().available
    if needed > MOST_MEMORY * free:
        return f"{name} needs {needed / 1e6:.0f} MB on the master, where {free / 1e6:.0f} MB are free"
    graph = for_shapes(zoo_graph(name, seeded=True), precision)
    x = np.random.default_rng(0).standard_normal(graph.picture.shape, np.float32)
    engine = Engine(graph, session, topology, PlanOptions(), RunOptions(adapt=False))
    try:
        engine.run(x)
        seconds: list[float] = []
        until = time.monotonic() + effort.net_s
        while len(seconds) < effort.least_runs or time.monotonic() < until:
            seconds.append(engine.run(x).latency_s)
        ranks = len(engine.plan.active_ranks)
        return _item("nets", name, seconds, f"{ranks} of {len(topology)} ranks" if len(topology) > 1 else "")
    finally:
        engine.close()
