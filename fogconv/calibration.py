"""Calibration: what the devices and links of a session measure, as a Topology.

    γ   a few convs of each kernel class, timed by every rank with its own kernels, all ranks at once
    α   half of the shortest round trip of an empty message
    β   (round trip with the payload − round trip without it) ÷ its elements, each way on its own

``calibrate`` takes its time and tells the spreads; ``calibrate_quickly`` keeps under 2 s and remembers each pair of hosts.
"""

from __future__ import annotations

import hashlib
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import platformdirs

from fogconv.errors import FogconvError
from fogconv.geometry import BYTES_PER_ELEMENT, ConvSpec
from fogconv.predictors import Sample
from fogconv.profile import Profile, ProfileDevice, ProfileLink
from fogconv.topology import Topology, kernel_class

CACHE_VERSION = 3
CACHE_AGE_S = 7 * 86400.0
"""After this long a pair of hosts is measured again: cables, chargers and heat change."""
LEAST_S_PER_BYTE = 1e-12
"""Between threads of a process a payload takes no time at all; the model wants a positive β."""
PROBE_S = 0.02
"""A payload that takes this long tells β well above the jitter of a round trip."""
LONG_PROBE_S = 0.1
"""For the long way: well beyond what a shaper lets pass in a burst."""
LEAST_PROBE_BYTES = 64 << 10
LARGEST_PROBE_BYTES = 16 << 20
LEAST_COMPUTE = 0.05
"""The part of a linear layer's time that is taken to be computing."""
SHORTER = 32
"""A payload by this much shorter takes a few ms: well more than a shaper's burst, little enough for that to show."""
PINGS = 20
MESSAGES_PER_PING = 4
"""Two exchanges, each a message there and one back; either end sends one and receives one of each."""
COST_PINGS, COST_BYTES = 4, 256 << 10
"""At 10 Mbit that is 2 s."""
BUDGET_S = 20.0
"""`fogconv calibrate` passes over the devices as often as this allows, three times at most; links take the rest of 30 s."""

_PAD = (1, 1, 1, 1)
TINY = ConvSpec(16, 16, 2, 2, (1, 1))
"""So little work that its time is the fixed cost of a step."""
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


class Worker(Protocol):
    """What a session tells of a worker."""

    @property
    def rank(self) -> int: ...
    @property
    def address(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def memory_limit_bytes(self) -> int: ...
    @property
    def isa(self) -> str: ...
    @property
    def software(self) -> str: ...


class RoundTrips(Protocol):
    """A session's ping: round trips with the payload in one direction only."""

    @property
    def there_s(self) -> float: ...
    @property
    def back_s(self) -> float: ...


class Answer(Protocol):
    """What a worker answers to measure."""

    @property
    def seconds(self) -> Sequence[float]: ...
    @property
    def copy_bytes_per_s(self) -> float: ...


class Session(Protocol):
    """What calibration asks of `fogconv.cluster.session.Session`."""

    @property
    def scheme(self) -> str: ...
    @property
    def workers(self) -> Sequence[Worker]: ...
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


@dataclass(frozen=True, slots=True)
class MessageCosts:
    """Seconds of the processor: for one message, sent or received, and for each byte of one, on its way out and in."""

    message_s: float
    send_s_per_byte: float
    receive_s_per_byte: float

    def scaled(self, slower: float) -> MessageCosts:
        return MessageCosts(self.message_s * slower, self.send_s_per_byte * slower, self.receive_s_per_byte * slower)


class CachedPair(msgspec.Struct, frozen=True):
    """A worker's device and both directions of its link, as measured from one master."""

    version: int
    measured_at: float
    device: ProfileDevice
    there: ProfileLink
    back: ProfileLink


def calibrate_quickly(
    session: Session, *, cache: Path | None = None, refresh: bool = False, local: Local | None = None
) -> Topology:
    """Measure what is not remembered, in under 2 s once kernels are compiled. Ranks are the session's.

    ``cache`` is a folder (by default the user's cache folder); one that can't be written is done without.
    """
    folder = cache or Path(platformdirs.user_cache_dir("fogconv")) / "calibration"
    workers = sorted(session.workers, key=lambda worker: worker.rank)
    known = {} if refresh else {w.rank: pair for w in workers if (pair := _remembered(folder, session.scheme, w))}
    master = None if refresh else _remembered_device(folder)
    missing = [worker.rank for worker in workers if worker.rank not in known]
    if missing or master is None:
        figures = measure_devices(session, QUICK, ranks=missing, repeats=3, local=local)
        costs = message_costs(session)
        master = _device("master", "", 0, os.cpu_count() or 1, figures[0], costs)
        _remember(folder, _master_key(), CachedPair(CACHE_VERSION, time.time(), master, _NOWHERE, _NOWHERE))
        for worker in workers:
            if worker.rank in figures:
                there, back, _ = measure_link(session, worker.rank, rounds=5)
                device = _worker_device(worker, figures, costs)
                known[worker.rank] = pair = CachedPair(CACHE_VERSION, time.time(), device, there, back)
                _remember(folder, _pair_key(session.scheme, worker), pair)
    return _profile(master, [known[worker.rank] for worker in workers], {}).topology("calibration")


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
    return _profile(master, pairs, spreads)


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
    """γ on the master (rank 0) and the workers named, all at the same time, as they will compute.

    ``passes`` times over, or as often as ``budget_s`` allows, but once at least.
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
    """Every rank times every spec: what predictors learn from."""
    ranks = [worker.rank for worker in session.workers]
    with ThreadPoolExecutor(1) as pool:
        own = pool.submit(local or _local_seconds, specs, 3)
        answers = session.measure(specs, ranks=ranks, repeats=3) if ranks else {}
        seconds: dict[int, Sequence[float]] = {0: own.result()}
    seconds |= {rank: answer.seconds for rank, answer in answers.items()}
    return {rank: [Sample(spec, each) for spec, each in zip(specs, found, strict=True)] for rank, found in seconds.items()}


def message_costs(session: Session) -> MessageCosts:
    """Of the master's processor, all threads, seen by pings of nothing, and of some bytes there or back; nothing where there
    is nobody to talk to."""
    if not session.workers:
        return MessageCosts(0.0, 0.0, 0.0)
    rank = session.workers[0].rank

    def spent(nbytes: int, back_bytes: int, pings: int) -> float:
        session.ping(rank, nbytes, back_bytes)
        begin = time.process_time()
        for _ in range(pings):
            session.ping(rank, nbytes, back_bytes)
        return (time.process_time() - begin) / pings

    empty = spent(0, 0, PINGS)
    sent, received = spent(COST_BYTES, 0, COST_PINGS), spent(0, COST_BYTES, COST_PINGS)
    return MessageCosts(
        empty / MESSAGES_PER_PING, max(0.0, sent - empty) / COST_BYTES, max(0.0, received - empty) / COST_BYTES
    )


def measure_link(
    session: Session, rank: int, *, rounds: int, probe_s: float = PROBE_S
) -> tuple[ProfileLink, ProfileLink, dict[str, float]]:
    """α and β to a worker and back, with their spreads, and what a shaper lets pass at once.

    β is the slope between two payloads, of which the larger takes ``probe_s`` at least: switches and shapers let the first
    bytes of a burst pass at a higher rate, and that would count as bandwidth. How many bytes, a short payload tells, by what
    it takes less than at that slope.
    """
    empty = [session.ping(rank) for _ in range(rounds)]
    large = _probe_bytes(session, rank, min(trip.there_s + trip.back_s for trip in empty) / 2, probe_s)
    small = large // 4
    pairs = [(session.ping(rank, small), session.ping(rank, large)) for _ in range(max(2, rounds // 3))]
    there = [max((more.there_s - less.there_s) / (large - small), LEAST_S_PER_BYTE) for less, more in pairs]
    back = [max((more.back_s - less.back_s) / (large - small), LEAST_S_PER_BYTE) for less, more in pairs]
    shorts = [session.ping(rank, large // SHORTER) for _ in range(max(2, rounds // 3))]
    alphas = [(trip.there_s + trip.back_s) / 4 for trip in empty]
    spreads = {
        f"alpha 0↔{rank}": _spread(alphas),
        f"beta 0→{rank}": _spread(there),
        f"beta {rank}→0": _spread(back),
    }
    alpha, beta_there, beta_back = (statistics.median(found) for found in (alphas, there, back))
    burst_there = _burst_bytes(
        [trip.there_s for trip in shorts], [trip.there_s for trip in empty], large // SHORTER, beta_there
    )
    burst_back = _burst_bytes([trip.back_s for trip in shorts], [trip.back_s for trip in empty], large // SHORTER, beta_back)
    return (
        ProfileLink(0, rank, alpha, beta_there * BYTES_PER_ELEMENT, burst_bytes=burst_there),
        ProfileLink(rank, 0, alpha, beta_back * BYTES_PER_ELEMENT, burst_bytes=burst_back),
        spreads,
    )


def _burst_bytes(shorts: Sequence[float], empty: Sequence[float], n_bytes: int, s_per_byte: float) -> float:
    """What a payload of ``n_bytes`` takes less than its bytes at the link's rate, in bytes; at most all of it."""
    taken_s = statistics.median(shorts) - statistics.median(empty)
    return float(min(max(0.0, n_bytes - taken_s / s_per_byte), n_bytes))


def _probe_bytes(session: Session, rank: int, idle_s: float, probe_s: float) -> int:
    """A payload that takes about ``probe_s``, found by quadrupling; the first ones also open TCP's window."""
    n_bytes = LEAST_PROBE_BYTES
    while n_bytes < LARGEST_PROBE_BYTES:
        trip = session.ping(rank, n_bytes)
        if min(trip.there_s, trip.back_s) - idle_s > probe_s:
            break
        n_bytes *= 4
    return n_bytes


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
    # A linear layer does little but fetch weights. Those of the other specs are in a cache after the first run.
    weight_s_per_byte = (1 - LEAST_COMPUTE) * statistics.median(fetches) if fetches else 0.0
    for index, spec in enumerate(specs[1:], start=1):
        kind = kernel_class(spec)
        compute = LEAST_COMPUTE if kind == "linear" else 1.0
        gamma = compute * max(medians[index] - step_s, medians[index] / 4) / spec.macs
        per_class.setdefault(kind, []).append(gamma)
        if len(passes) > 1:  # one pass tells nothing about how sure it is
            spread = _spread([values[index] for values in passes])
            spreads[kind] = max(spreads.get(kind, 0.0), spread)
    gammas = {kind: statistics.geometric_mean(values) for kind, values in per_class.items()}
    dense = [gammas[kind] for kind in ("winograd", "direct1x1", "direct") if kind in gammas]
    return Figures(
        {"default": statistics.geometric_mean(dense), **gammas}, step_s, copy_s_per_byte, weight_s_per_byte, spreads
    )


def _spread(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return (third - first) / median if median else 0.0


def _local_seconds(specs: Sequence[ConvSpec], repeats: int) -> Sequence[float]:
    """The master's own kernels, as its workers time theirs."""
    from fogconv.cluster.interpreter import Executable
    from fogconv.cluster.measure import conv_seconds

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return conv_seconds(specs, Executable, threads=cores, repeats=repeats)


def _copy_bytes_per_s() -> float:
    from fogconv.cluster.measure import copy_bytes_per_s

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
    """Only the master's processor time for messages can be seen; a worker's is taken to differ as its rate does."""
    found = figures[worker.rank]
    slower = found.gamma_s_per_mac["default"] / figures[0].gamma_s_per_mac["default"]
    return _device(worker.host, worker.address, worker.memory_limit_bytes, worker.threads, found, costs.scaled(slower))


def _profile(master: ProfileDevice, pairs: Sequence[CachedPair], spreads: dict[str, float]) -> Profile:
    links = []
    for rank, pair in enumerate(pairs, start=1):
        links.append(msgspec.structs.replace(pair.there, origin=0, to=rank))
        links.append(msgspec.structs.replace(pair.back, origin=rank, to=0))
    return Profile(1, (master, *(pair.device for pair in pairs)), tuple(links), spreads)


_NOWHERE = ProfileLink(0, 0, 0.0, 1.0)


def _master_key() -> str:
    import fogconv

    return f"master {os.uname().nodename} {os.cpu_count()} {fogconv.__version__}"


def _pair_key(scheme: str, worker: Worker) -> str:
    """Two hosts, one way of talking, one address: another instruction set or version of fogconv is measured anew."""
    # In-process and MPI addresses name ranks, not devices; the host and the rank tell them apart.
    return f"{os.uname().nodename} {scheme} {worker.address} {worker.host} {worker.threads} {worker.isa} {worker.software}"


def _path(folder: Path, key: str) -> Path:
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"


def _remembered(folder: Path, scheme: str, worker: Worker) -> CachedPair | None:
    return _read(_path(folder, _pair_key(scheme, worker)))


def _remembered_device(folder: Path) -> ProfileDevice | None:
    found = _read(_path(folder, _master_key()))
    return None if found is None else found.device


def _read(path: Path) -> CachedPair | None:
    try:
        pair = msgspec.json.decode(path.read_bytes(), type=CachedPair)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    fresh = pair.version == CACHE_VERSION and 0 <= time.time() - pair.measured_at < CACHE_AGE_S
    if not fresh:
        return None
    try:
        _profile(pair.device, [pair], {}).topology()
    except FogconvError:
        return None
    return pair


def _remember(folder: Path, key: str, pair: CachedPair) -> None:
    path = _path(folder, key)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Several masters may write at once: each its own file, renamed in one step.
        draft = path.with_suffix(f".{os.getpid()}.tmp")
        draft.write_bytes(msgspec.json.encode(pair))
        draft.replace(path)
    except OSError:
        return
