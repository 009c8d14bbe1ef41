"""Calibration: the measured devices and links of a session, as a Topology.

    γ   a few convs of each kernel class, timed by every rank with its own kernels, all ranks at once
    α   and β: see `fogconv.calibration.links`

``calibrate`` takes up to 30 s and reports the spreads; ``calibrate_quickly`` takes under 2 s and keeps the results of
each pair of hosts.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import platformdirs

from fogconv.calibration.cache import (
    CACHE_VERSION,
    NOWHERE,
    CachedPair,
    Worker,
    master_key,
    pair_key,
    profile_of,
    remember,
    remembered,
    remembered_device,
)
from fogconv.calibration.links import MessageCosts, RoundTrips, measure_link, message_costs, spread
from fogconv.errors import WorkerLostError
from fogconv.hardware.latency_models import Sample
from fogconv.hardware.profile import Profile, ProfileDevice
from fogconv.hardware.topology import Topology, kernel_class
from fogconv.ir.geometry import BYTES_PER_ELEMENT, ConvSpec

LONG_PROBE_S = 0.1
"""For ``calibrate``: much longer than the burst of a shaper."""
LEAST_COMPUTE = 0.05
"""The assumed share of computation in a linear layer's time."""
BUDGET_S = 20.0
"""`fogconv calibrate` repeats its passes over the devices for this long, three times at most; links take the rest of 30
s."""

_PAD = (1, 1, 1, 1)
TINY = ConvSpec(16, 16, 2, 2, (1, 1))
"""A conv with so little work that its time is the fixed cost of a step."""
QUICK = (
    ConvSpec(64, 64, 28, 28, (3, 3), padding=_PAD),
    ConvSpec(128, 128, 28, 28, (1, 1)),
    ConvSpec(64, 64, 28, 28, (3, 3), stride=(2, 2), padding=_PAD),
    ConvSpec(128, 128, 28, 28, (3, 3), padding=_PAD, groups=128),
    ConvSpec(2048, 1000, 1, 1, (1, 1)),
)
FULL = (
    *QUICK,
    ConvSpec(128, 128, 28, 28, (3, 3), padding=_PAD),
    ConvSpec(256, 256, 14, 14, (3, 3), padding=_PAD),
    ConvSpec(512, 512, 7, 7, (3, 3), padding=_PAD),
    ConvSpec(256, 64, 56, 56, (1, 1)),
    ConvSpec(512, 512, 14, 14, (1, 1)),
    ConvSpec(1024, 256, 7, 7, (1, 1)),
    ConvSpec(128, 128, 28, 28, (3, 3), stride=(2, 2), padding=_PAD),
    ConvSpec(128, 128, 17, 17, (1, 7), padding=(0, 0, 3, 3)),
    ConvSpec(96, 96, 56, 56, (3, 3), padding=_PAD, groups=96),
    ConvSpec(480, 480, 14, 14, (5, 5), padding=(2, 2, 2, 2), groups=480),
    ConvSpec(128, 128, 28, 28, (3, 3), padding=_PAD, groups=32),
    ConvSpec(256, 256, 14, 14, (3, 3), padding=_PAD, groups=32),
    ConvSpec(3, 64, 112, 112, (7, 7), stride=(2, 2), padding=(3, 3, 3, 3)),
    ConvSpec(3, 32, 112, 112, (3, 3), stride=(2, 2), padding=_PAD),
    ConvSpec(512, 512, 7, 7, (7, 7)),
)

Local = Callable[[Sequence[ConvSpec], int], Sequence[float]]
"""(specs, repeats) → seconds of each on the master."""


class Answer(Protocol):
    """A worker's answer to ``measure``."""

    @property
    def seconds(self) -> Sequence[float]: ...
    @property
    def copy_bytes_per_s(self) -> float: ...


class Session(Protocol):
    """The part of `fogconv.cluster.session.session.Session` that calibration uses."""

    @property
    def scheme(self) -> str: ...
    @property
    def ranks(self) -> int: ...
    @property
    def workers(self) -> Sequence[Worker]: ...
    def refresh(self) -> frozenset[int]: ...
    def ping(self, rank: int, nbytes: int = 0, back_bytes: int | None = None) -> RoundTrips: ...
    def measure(
        self, specs: Sequence[ConvSpec], *, ranks: Sequence[int] | None = None, repeats: int = 3
    ) -> Mapping[int, Answer]: ...


@dataclass(frozen=True, slots=True)
class Figures:
    """One device: γ per kernel class, the cost of a step, the rates of copying and of fetching weights; spreads by name."""

    gamma_s_per_mac: dict[str, float]
    step_s: float
    copy_s_per_byte: float
    weight_s_per_byte: float
    spreads: dict[str, float]


def calibrate_quickly(
    session: Session, *, cache: Path | None = None, refresh: bool = False, local: Local | None = None
) -> Topology:
    """Measure the pairs that are not in the cache, in under 2 s once kernels are compiled. Ranks are the session's.

    A worker that is lost meanwhile gets the figures of the slowest of the others, because it may come back. ``cache`` is
    a folder (by default the user's cache folder); one that can't be written is not used.
    """
    folder = cache or Path(platformdirs.user_cache_dir("fogconv")) / "calibration"
    while True:
        workers = sorted(session.workers, key=lambda worker: worker.rank)
        try:
            master, known = _measured(session, workers, folder, refresh, local)
            break
        except WorkerLostError:
            session.refresh()
            if len(session.workers) == len(workers):
                raise
    slowest = max(known.values(), key=lambda pair: pair.device.gamma_s_per_mac["default"], default=None)
    pairs = [] if slowest is None else [known.get(rank, slowest) for rank in range(1, session.ranks)]
    return profile_of(master, pairs, {}).topology("calibration")


def _measured(
    session: Session, workers: Sequence[Worker], folder: Path, refresh: bool, local: Local | None
) -> tuple[ProfileDevice, dict[int, CachedPair]]:
    """The master and, by rank, the workers: from the cache, or measured and stored in it."""
    known = {} if refresh else {w.rank: pair for w in workers if (pair := remembered(folder, session.scheme, w))}
    master = None if refresh else remembered_device(folder)
    missing = [worker.rank for worker in workers if worker.rank not in known]
    if missing or master is None:
        figures = measure_devices(session, QUICK, ranks=missing, repeats=3, local=local)
        costs = message_costs(session)
        master = _device("master", "", 0, os.cpu_count() or 1, figures[0], costs)
        remember(folder, master_key(), CachedPair(CACHE_VERSION, time.time(), master, NOWHERE, NOWHERE))
        for worker in workers:
            if worker.rank in figures:
                there, back, _ = measure_link(session, worker.rank, rounds=5)
                device = _worker_device(worker, figures, costs)
                known[worker.rank] = pair = CachedPair(CACHE_VERSION, time.time(), device, there, back)
                remember(folder, pair_key(session.scheme, worker), pair)
    return master, known


def calibrate(
    session: Session, *, specs: Sequence[ConvSpec] = FULL, repeats: int = 7, rounds: int = 15, local: Local | None = None
) -> Profile:
    """Measure everything, several times over, with spreads: (third quartile − first) ÷ median."""
    workers = sorted(session.workers, key=lambda worker: worker.rank)
    figures = measure_devices(
        session, specs, ranks=[w.rank for w in workers], repeats=repeats, passes=3, budget_s=BUDGET_S, local=local
    )
    costs = message_costs(session)
    spreads = {f"gamma rank 0 {kind}": value for kind, value in figures[0].spreads.items()}
    pairs = []
    for worker in workers:
        there, back, link_spreads = measure_link(session, worker.rank, rounds=rounds, probe_s=LONG_PROBE_S)
        found = figures[worker.rank]
        device = _worker_device(worker, figures, costs)
        pairs.append(CachedPair(CACHE_VERSION, time.time(), device, there, back))
        spreads |= {f"gamma rank {worker.rank} {kind}": value for kind, value in found.spreads.items()}
        spreads |= link_spreads
    master = _device("master", "", 0, os.cpu_count() or 1, figures[0], costs)
    return profile_of(master, pairs, spreads)


def measure_devices(
    session: Session,
    specs: Sequence[ConvSpec],
    *,
    ranks: Sequence[int],
    repeats: int,
    passes: int = 1,
    budget_s: float = math.inf,
    local: Local | None = None,
) -> dict[int, Figures]:
    """γ on the master (rank 0) and the workers named, all at the same time, as in an inference. Measures ``passes``
    times, or as often as ``budget_s`` allows, but at least once.
    """
    timer = local or _local_seconds
    wanted = [TINY, *specs]
    runs: dict[int, list[Sequence[float]]] = {rank: [] for rank in (0, *ranks)}
    copies: dict[int, float] = {}
    begin = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        for done in range(passes):
            if done and (time.monotonic() - begin) * (done + 1) / done > budget_s:
                break
            own = pool.submit(timer, wanted, repeats)
            answers = session.measure(wanted, ranks=ranks, repeats=repeats) if ranks else {}
            runs[0].append(own.result())
            for rank, answer in answers.items():
                runs[rank].append(answer.seconds)
                copies[rank] = 1 / max(answer.copy_bytes_per_s, 1.0)
    copies[0] = 1 / _copy_bytes_per_s()
    return {rank: _figures(wanted, passes_of, copies[rank]) for rank, passes_of in runs.items()}


def device_samples(session: Session, specs: Sequence[ConvSpec], *, local: Local | None = None) -> dict[int, list[Sample]]:
    """Every rank's time for every spec: the samples for predictors."""
    ranks = [worker.rank for worker in session.workers]
    with ThreadPoolExecutor(1) as pool:
        own = pool.submit(local or _local_seconds, specs, 3)
        answers = session.measure(specs, ranks=ranks, repeats=3) if ranks else {}
        seconds: dict[int, Sequence[float]] = {0: own.result()}
    seconds |= {rank: answer.seconds for rank, answer in answers.items()}
    return {rank: [Sample(spec, each) for spec, each in zip(specs, found, strict=True)] for rank, found in seconds.items()}


def _figures(specs: Sequence[ConvSpec], passes: Sequence[Sequence[float]], copy_s_per_byte: float) -> Figures:
    """specs[0] is TINY: its time is one step's. A class's γ is the geometric mean over its specs."""
    medians = [statistics.median(values) for values in zip(*passes, strict=True)]
    step_s = min(medians)
    per_class: dict[str, list[float]] = {}
    spreads: dict[str, float] = {}
    fetches = [
        (medians[index] - step_s) / (spec.weight_elements * BYTES_PER_ELEMENT)
        for index, spec in enumerate(specs)
        if kernel_class(spec) == "linear"
    ]
    # A linear layer mostly reads weights. The weights of the other specs are in a cache after the first run.
    weight_s_per_byte = (1 - LEAST_COMPUTE) * statistics.median(fetches) if fetches else 0.0
    for index, spec in enumerate(specs[1:], start=1):
        kind = kernel_class(spec)
        compute = LEAST_COMPUTE if kind == "linear" else 1.0
        gamma = compute * max(medians[index] - step_s, medians[index] / 4) / spec.macs
        per_class.setdefault(kind, []).append(gamma)
        if len(passes) > 1:  # one pass gives no spread
            spreads[kind] = max(spreads.get(kind, 0.0), spread([values[index] for values in passes]))
    gammas = {kind: statistics.geometric_mean(values) for kind, values in per_class.items()}
    dense = [gammas[kind] for kind in ("winograd", "direct1x1", "direct") if kind in gammas]
    return Figures(
        {"default": statistics.geometric_mean(dense), **gammas}, step_s, copy_s_per_byte, weight_s_per_byte, spreads
    )


def _local_seconds(specs: Sequence[ConvSpec], repeats: int) -> Sequence[float]:
    """Times of the master's own kernels, measured as on its workers."""
    from fogconv.cluster.executor.executors import executor
    from fogconv.cluster.executor.microbenchmark import conv_seconds

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return conv_seconds(specs, executor(), threads=cores, repeats=repeats)


def _copy_bytes_per_s() -> float:
    from fogconv.cluster.executor.microbenchmark import copy_bytes_per_s

    return copy_bytes_per_s()


def _device(name: str, address: str, memory: int, threads: int, figures: Figures, costs: MessageCosts) -> ProfileDevice:
    return ProfileDevice(
        name,
        figures.gamma_s_per_mac,
        address,
        figures.copy_s_per_byte,
        figures.step_s,
        memory or None,
        max(1, threads),
        message_s=costs.message_s,
        weight_s_per_byte=figures.weight_s_per_byte,
        send_s_per_byte=costs.send_s_per_byte,
        receive_s_per_byte=costs.receive_s_per_byte,
    )


def _worker_device(worker: Worker, figures: Mapping[int, Figures], costs: MessageCosts) -> ProfileDevice:
    """Only the master's processor time for messages can be measured; a worker's is scaled by its rate."""
    found = figures[worker.rank]
    slower = found.gamma_s_per_mac["default"] / figures[0].gamma_s_per_mac["default"]
    return _device(worker.host, worker.address, worker.memory_limit_bytes, worker.threads, found, costs.scaled(slower))
