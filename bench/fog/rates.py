"""The topology that the planner gets: every node's rate and every link, measured in the bed.

    γ, maps    a few runs of the whole network on the master, divided by what its kernels count as their work, and by the
    bytes of its maps: caches are as cold as in inferences. A worker's is derived from the master's by their shares of a core
    messages   the master's processor time for pings from cold caches, and for each byte of one (`fogconv.calibration.links`)
    α, β       pings, empty and large

Computation is measured under the quota, which costs a tenth more than the missing time, because a node returns to cold
caches every period. Pings, copies and steps are measured before, and their processor times are stretched by the same factor;
compilation is done by then.

Inferences of a synthetic net in place of the cold pings gave the same time per message (0.17 to 0.20 ms of a core; pings:
0.15 to 0.20), and no measurable time per byte. Pings between two convs, with what they cost these, gave less than pings
after a copy of 32 MB (0.02 to 0.06 ms without a quota; 0.03 to 0.09).
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bench.fog.cgroup import quota_and_period_us
from bench.fog.ticker import TICK_S
from fogconv.calibration.links import message_costs
from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.executor.microbenchmark import NoMailbox, copy_bytes_per_s
from fogconv.cluster.session.session import Session
from fogconv.hardware.topology import Device, Link, Topology, kernel_class
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import BYTES_PER_ELEMENT, ConvSpec, MapSpec, StepSpec
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Host
from fogconv.ir.memory.algorithm import cycles
from fogconv.ir.plan import Plan, at_home
from fogconv.kernels.codegen.isa import half_rate, host_isa
from fogconv.kernels.conv.select import choose, together
from fogconv.lowering.lower import lower

FULL_SPEED_RUNS = 7
RUNS = 5
PINGS = 20
LARGE_BYTES = 2_000_000
MACS_PER_CYCLE = 16
STEP_S = 1e-6
"""The cost of a step beside its kernel, at full speed: compiled code walks the steps (0.5 µs per step of mobilenet_v2, 3 of
resnet50). With the 10 µs of Python's calls mobilenet_v2 on one node was predicted to take 12 to 20 % too long."""
MAP_RATES = (0.0, *np.geomspace(1e-12, 2e-10, 24))
"""Seconds per byte of a conv's maps that are tried."""
LEAST_COMPUTING = 0.25
"""The assumed least share of computation in a conv's time."""


class Rates:
    """Compiles and measures links when made, without quotas; measures the devices in ``topologies``, under them."""

    def __init__(self, session: Session, graph: LayerGraph, image: Array, shares: Sequence[float]) -> None:
        self._shares = shares
        self._image = image
        alone = Plan(graph.name, 1, "local", tuple(at_home(graph, layer) for layer in graph.layers))
        lowered = lower(graph, alone)
        [self._program] = lowered.programs

        def host(layer: int, values: dict[object, object], maps: Sequence[Array]) -> Sequence[Array]:
            call = graph.layers[layer]
            assert isinstance(call, Host)
            return call.call(values, *maps)

        self._executable: Executable | None = Executable(self._program, lowered.weights, threads=1, host=host)
        works = [self._program.work(step) for step in self._program.steps]
        times = [self._run() for _ in range(FULL_SPEED_RUNS + 1)][1:]
        self._full_speed: NDArray[np.float64] = np.asarray(np.median(times, axis=0), np.float64)
        self._work = [
            (work, float(seconds)) for work, seconds in zip(works, self._full_speed, strict=True) if work is not None
        ]
        self._links = {worker.rank: _link(session, worker.rank) for worker in session.workers}
        self._copy_s_per_byte = 1 / copy_bytes_per_s()
        specs = [work for work in works if isinstance(work, ConvSpec)]
        self._costs = message_costs(session)
        self._session = session
        # Layers of medium effort: packing the weights of the heaviest takes more time and memory than computing it.
        self._usual = sorted(specs, key=effort)[len(specs) // 2 :][:1]
        self._occupy()

    def topologies(self) -> tuple[Topology, Topology]:
        """While the other nodes compute, and while they idle, as they do where all stays with the master: nodes share one
        memory, as boards do not. Call once, under the quotas."""
        idle = self._stretch()
        with self._others_at_work():
            busy = self._stretch()
        self._executable = None
        return self._topology(busy), self._topology(idle)

    def _stretch(self) -> float:
        """How much longer a run takes than at full speed."""
        # A pause of 9 ms hits a random step: the whole run gives the rate, full speed the proportions.
        self._run()
        return statistics.median(float(self._run().sum()) for _ in range(RUNS)) / float(self._full_speed.sum())

    def _topology(self, stretch: float) -> Topology:
        costs = self._costs.scaled(stretch)
        shares = self._shares
        gamma, maps = fit(self._work)
        first = Device(
            "node 0",
            {kind: rate * stretch for kind, rate in gamma.items()},
            self._copy_s_per_byte * stretch,
            STEP_S * stretch,
            message_s=costs.message_s,
            send_s_per_byte=costs.send_s_per_byte,
            receive_s_per_byte=costs.receive_s_per_byte,
            effort=effort,
            map_s_per_byte={kind: rate * stretch for kind, rate in maps.items()},
        )
        links: dict[tuple[int, int], Link] = {}
        for rank, (there, back) in self._links.items():
            links[0, rank], links[rank, 0] = there, back
        return Topology(tuple(under_quota(first.scaled(share / shares[0]), share) for share in shares), links)

    @contextmanager
    def _others_at_work(self) -> Iterator[None]:
        """Let the workers compute in the meantime: all nodes share one memory, and idle ones would leave its bandwidth to
        the master."""
        over = threading.Event()

        def occupy() -> None:
            while self._session.workers and not over.is_set():
                self._occupy()

        thread = threading.Thread(target=occupy)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _occupy(self) -> None:
        self._session.measure(self._usual, repeats=1)

    def _run(self) -> NDArray[np.float64]:
        """Seconds of every step of the network, run on the master alone."""
        assert self._executable is not None
        self._executable.run(NoMailbox(), [self._image])
        begins, ends = self._executable.times.T.astype(np.float64)
        times: NDArray[np.float64] = (ends - begins) * 1e-9
        return times


def under_quota(device: Device, share: float) -> Device:
    """The device, which computes in bursts: that its peers wait for its next slice is part of the prediction."""
    if share >= 1:
        return device
    return replace(device, share=share, period_s=quota_and_period_us(share)[1] * 1e-6, tick_s=TICK_S)


def fit(work: Sequence[tuple[StepSpec, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """γ per kernel class in seconds per MAC of ``effort`` ("default" is over all convs), and the seconds per byte of maps by
    kind ("default" is over all steps but convs), from the seconds of a network's steps.

    A conv's maps cost the same per byte in all classes: what leaves the least error in its logarithm.
    """
    convs = [(spec, seconds) for spec, seconds in work if isinstance(spec, ConvSpec)]
    kinds = np.array([kernel_class(spec) for spec, _ in convs])
    seconds, macs = np.array([each for _, each in convs]), np.array([effort(spec) for spec, _ in convs])
    n_bytes = np.array([spec.map_elements * BYTES_PER_ELEMENT for spec, _ in convs])

    def gammas(rate: float) -> dict[str, float]:
        rest = np.maximum(seconds - rate * n_bytes, seconds * LEAST_COMPUTING)
        return {str(kind): float(rest[kinds == kind].sum() / macs[kinds == kind].sum()) for kind in np.unique(kinds)}

    def error(rate: float) -> float:
        found = gammas(rate)
        predicted = macs * np.array([found[kind] for kind in kinds]) + rate * n_bytes
        return float(np.abs(np.log(predicted / np.maximum(seconds, 1e-9))) @ seconds)

    rate = min(MAP_RATES, key=error)
    found = gammas(rate)
    gamma = {"default": float(macs @ np.array([found[kind] for kind in kinds]) / macs.sum()), **found}
    spent: dict[str, list[float]] = {}
    for spec, each in work:
        if isinstance(spec, MapSpec):
            for kind in (spec.kind, "default"):
                total = spent.setdefault(kind, [0.0, 0.0])
                total[0] += each
                total[1] += spec.touched * BYTES_PER_ELEMENT
    maps = {kind: kind_s / kind_bytes for kind, (kind_s, kind_bytes) in spent.items()}
    return gamma, {**maps, "conv": rate}


@lru_cache(maxsize=1 << 16)
def effort(spec: ConvSpec) -> float:
    """The work counted by the kernels' own rule: whole tiles of the chosen algorithm, and its weights from memory.

    γ·MACs alone underestimates a shard of 3 rows in tiles of 4, and ignores weights: VGG-16's late layers were then cut
    by rows, which is a fifth slower than by channels.
    """
    isa = host_isa()
    algorithm = choose(spec, isa, strict=False)
    return MACS_PER_CYCLE * spec.batch * cycles(spec, algorithm, together=together(spec, isa), half_rate=half_rate(isa))


def _link(session: Session, rank: int) -> tuple[Link, Link]:
    """The link to a worker and the link back."""
    small = [session.ping(rank) for _ in range(PINGS)]
    large = [session.ping(rank, LARGE_BYTES) for _ in range(3)]
    ways = []
    for way in ("there_s", "back_s"):  # round trips with the payload one way only
        empty, full = (statistics.median(getattr(times, way) for times in pings) for pings in (small, large))
        ways.append(Link(empty / 2, max(1e-12, (full - empty) / LARGE_BYTES)))
    return ways[0], ways[1]
