"""Devices: what ranks measure of themselves.

    γ      a few convs of each kernel class, timed by every rank with its own kernels
    others a pool, a sum, … each: what a byte costs that a step of its kind moves through memory

Different machines measure at the same time. Ranks that share one measure one after the other, each with the machine for
itself: what sharing costs is the planner's to say (`fogconv.hardware.topology.Topology.together_s`).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from fogconv.calibration.links import spread
from fogconv.cluster.protocol.messages import Machine
from fogconv.errors import SwapError
from fogconv.hardware.latency.features import computed
from fogconv.hardware.latency.samples import IDLE, DeviceLoad, Sample
from fogconv.hardware.topology import kernel_class
from fogconv.ir.geometry import BYTES_PER_ELEMENT, ConvSpec, MapSpec, StepSpec
from fogconv.ir.precision.elements import ELEMENT_BYTES

LEAST_COMPUTE = 0.05
"""The assumed share of computation in a linear layer's time."""
MOST_STRETCH = 0.25
"""Undisturbed, the mean run takes about a tenth longer than the fastest one; beside other work half as long again."""
MOST_OTHER_CORES = 0.5
"""What others may use beyond the cores that the measurement leaves free."""

DENSE = ("winograd", "direct1x1", "direct")
"""The kernel classes whose mean is a device's default rate."""
PLAIN = ("affine", "add")
"""The other steps whose mean is a device's default cost of a byte."""
DISK_BYTES = 16_000_000
"""Read to measure a disk: two slices of swapped weights, under a second to write and to read on most SD cards."""

PAD = (1, 1, 1, 1)
TINY = ConvSpec(16, 16, 2, 2, (1, 1))
"""A conv with so little work that its time is the fixed cost of a step."""
THIN = ConvSpec(16, 16, 112, 112, (1, 1)), ConvSpec(16, 16, 640, 640, (1, 1))
"""Convs that mostly move maps, in a cache and beyond it."""
NEAR, FAR = THIN
FAR_MAP = MapSpec("affine", 64, 320, 320)
"""A step on maps that no cache holds."""
QUICK = (
    ConvSpec(64, 64, 28, 28, (3, 3), padding=PAD),
    ConvSpec(128, 128, 28, 28, (1, 1)),
    ConvSpec(64, 64, 28, 28, (3, 3), stride=(2, 2), padding=PAD),
    ConvSpec(128, 128, 28, 28, (3, 3), padding=PAD, groups=128),
    ConvSpec(2048, 1000, 1, 1, (1, 1)),
    ConvSpec(3, 32, 224, 224, (3, 3), stride=(2, 2), padding=PAD),
    *THIN,
)
QUICK_MAPS = (
    FAR_MAP,
    MapSpec("pool", 64, 56, 56, kernel=(3, 3), stride=(2, 2)),
    MapSpec("add", 256, 28, 28, sources=2),
    MapSpec("affine", 256, 28, 28),
    MapSpec("globalpool", 1024, 14, 14),
    MapSpec("permute", 128, 28, 28),
    MapSpec("transpose", 3, 224, 224),
)
FULL_MAPS = (
    *QUICK_MAPS,
    MapSpec("pool", 256, 28, 28, kernel=(2, 2), stride=(2, 2)),
    MapSpec("pool", 192, 35, 35, kernel=(3, 3)),
    MapSpec("add", 256, 56, 56, sources=2),
    MapSpec("affine", 256, 56, 56),
    MapSpec("gate", 240, 28, 28),
    MapSpec("copy", 256, 28, 28),
    MapSpec("leaky_relu", 128, 56, 56),
    MapSpec("maximum", 128, 28, 28, sources=2),
    MapSpec("resample", 96, 80, 80),
    MapSpec("resample", 64, 80, 80, kernel=(2, 2)),
    MapSpec("interleave", 24, 80, 80, sources=4, stride=(2, 2)),
)
FULL = (
    *QUICK,
    ConvSpec(128, 128, 28, 28, (3, 3), padding=PAD),
    ConvSpec(256, 256, 14, 14, (3, 3), padding=PAD),
    ConvSpec(512, 512, 7, 7, (3, 3), padding=PAD),
    ConvSpec(256, 64, 56, 56, (1, 1)),
    ConvSpec(512, 512, 14, 14, (1, 1)),
    ConvSpec(1024, 256, 7, 7, (1, 1)),
    ConvSpec(128, 128, 28, 28, (3, 3), stride=(2, 2), padding=PAD),
    ConvSpec(128, 128, 17, 17, (1, 7), padding=(0, 0, 3, 3)),
    ConvSpec(96, 96, 56, 56, (3, 3), padding=PAD, groups=96),
    ConvSpec(480, 480, 14, 14, (5, 5), padding=(2, 2, 2, 2), groups=480),
    ConvSpec(128, 128, 28, 28, (3, 3), padding=PAD, groups=32),
    ConvSpec(256, 256, 14, 14, (3, 3), padding=PAD, groups=32),
    ConvSpec(3, 64, 112, 112, (7, 7), stride=(2, 2), padding=(3, 3, 3, 3)),
    ConvSpec(512, 512, 7, 7, (7, 7)),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a rank measured: see `fogconv.cluster.protocol.messages.Measured`."""

    seconds: Sequence[float]
    copy_bytes_per_s: float
    fastest_s: Sequence[float]
    other_cores: float = 0.0
    loads: Sequence[DeviceLoad] = ()


class Measured(Protocol):
    """A worker's answer to ``measure``."""

    @property
    def seconds(self) -> Sequence[float]: ...
    @property
    def copy_bytes_per_s(self) -> float: ...
    @property
    def fastest_s(self) -> Sequence[float]: ...
    @property
    def other_cores(self) -> float: ...
    @property
    def loads(self) -> Sequence[DeviceLoad]: ...


Local = Callable[[Sequence[StepSpec], int], Measured]
"""(specs, repeats) → what the master measures of itself."""


class Session(Protocol):
    """What is asked of `fogconv.cluster.session.session.Session`."""

    def measure(
        self, specs: Sequence[StepSpec], *, ranks: Sequence[int] | None = None, repeats: int = 3
    ) -> Mapping[int, Measured]: ...


class DiskSession(Protocol):
    """What is asked of it for disks."""

    def read_rate(self, rank: int, disk_bytes: int) -> float: ...


@dataclass(frozen=True, slots=True)
class Figures:
    """One device: γ per kernel class, the cost of a step, the rates of copying and of fetching weights; spreads by name.

    ``stretch``: how much longer the mean run took than the fastest, for the middle one of the steps. ``other_cores``: what
    other processes used of its cores meanwhile, at most. ``map_s_per_byte``, ``far_s_per_byte``: see
    `fogconv.hardware.topology.Device`.
    """

    gamma_s_per_mac: dict[str, float]
    step_s: float
    copy_s_per_byte: float
    weight_s_per_byte: float
    spreads: dict[str, float]
    stretch: float = 0.0
    other_cores: float = 0.0
    map_s_per_byte: dict[str, float] = field(default_factory=dict)
    far_s_per_byte: dict[str, float] = field(default_factory=dict)


def disturbed(figures: Figures, threads: int, machine: Machine) -> bool:
    """Whether these are the rates of a device that did something else meanwhile. A quota is none: it stays."""
    if figures.other_cores > max(0, len(machine.cpus) - threads) + MOST_OTHER_CORES:
        return True
    throttled = 0 < machine.quota_cores < threads
    return not throttled and figures.stretch > MOST_STRETCH


def turns(ranks: Mapping[int, str]) -> list[list[int]]:
    """Ranks (with the identity of their machine, "" for one of its own) in groups of which none has two of one machine."""
    found: list[list[int]] = []
    taken: list[set[str]] = []
    for rank, machine in sorted(ranks.items()):
        at = next((i for i, there in enumerate(taken) if not machine or machine not in there), len(found))
        if at == len(found):
            found.append([])
            taken.append(set())
        found[at].append(rank)
        taken[at].add(machine)
    return found


def measure_devices(
    session: Session,
    specs: Sequence[StepSpec],
    *,
    ranks: Mapping[int, str],
    repeats: int,
    passes: int = 1,
    budget_s: float = math.inf,
    local: Local | None = None,
) -> dict[int, Figures]:
    """The rates of ``ranks`` (the master is 0), each with the identity of its machine; see `turns`. In ``specs`` convs come
    first.

    ``passes`` times over, or as often as ``budget_s`` allows, but once at least.
    """
    timer = local or measured_here
    wanted = [TINY, *specs]
    runs: dict[int, list[Measured]] = {rank: [] for rank in ranks}
    begin = time.monotonic()
    for done in range(passes):
        if done and (time.monotonic() - begin) * (done + 1) / done > budget_s:
            break
        for turn in turns(ranks):
            for rank, answer in _at_once(session, wanted, turn, repeats, timer).items():
                runs[rank].append(answer)
    return {rank: _figures(wanted, answers) for rank, answers in runs.items()}


def _at_once(
    session: Session, specs: Sequence[StepSpec], ranks: Sequence[int], repeats: int, timer: Local
) -> dict[int, Measured]:
    workers = [rank for rank in ranks if rank]
    found: dict[int, Measured] = {}
    with ThreadPoolExecutor(1) as pool:
        own = pool.submit(timer, specs, repeats) if 0 in ranks else None
        if workers:
            found |= session.measure(specs, ranks=workers, repeats=repeats)
        if own is not None:
            found[0] = own.result()
    return found


def measure_disks(session: DiskSession, ranks: Iterable[int]) -> dict[int, float]:
    """The bytes per second at which ranks read from the disks that they swap to, one after the other; 0 for one that has no
    room for it."""
    from fogconv.storage.swap_file import SwapFolder

    found = {}
    for rank in ranks:
        try:
            found[rank] = session.read_rate(rank, DISK_BYTES) if rank else SwapFolder().bytes_per_s(DISK_BYTES, lambda: None)
        except SwapError:
            found[rank] = 0.0
    return found


def device_samples(
    session: Session, specs: Sequence[StepSpec], *, ranks: Mapping[int, str], local: Local | None = None
) -> dict[int, list[Sample]]:
    """Every rank's time for every spec, and its load meanwhile: the samples for predictors. Convs come first."""
    found: dict[int, Measured] = {}
    for turn in turns(ranks):
        found |= _at_once(session, specs, turn, 3, local or measured_here)
    return {
        rank: [
            Sample(spec, seconds, load)
            for spec, seconds, load in zip(specs, answer.seconds, _loads(answer, len(specs)), strict=True)
        ]
        for rank, answer in sorted(found.items())
    }


def _loads(answer: Measured, count: int) -> Sequence[DeviceLoad]:
    """One per step, also of a worker that did not look."""
    return answer.loads if len(answer.loads) == count else [IDLE] * count


def _figures(specs: Sequence[StepSpec], answers: Sequence[Measured]) -> Figures:
    """specs[0] is TINY: its time is one step's. A class's γ, and a kind's cost of a byte, is the geometric mean over its
    specs."""
    passes = [answer.seconds for answer in answers]
    medians = [statistics.median(values) for values in zip(*passes, strict=True)]
    step_s = min(medians)
    per_class: dict[str, list[float]] = {}
    spreads: dict[str, float] = {}
    fetches = [
        (medians[index] - step_s) / (spec.weight_elements * BYTES_PER_ELEMENT)
        for index, spec in enumerate(specs)
        if isinstance(spec, ConvSpec) and kernel_class(spec) == "linear"
    ]
    # A linear layer mostly reads weights. The weights of the other specs are in a cache after the first run.
    weight_s_per_byte = (1 - LEAST_COMPUTE) * statistics.median(fetches) if fetches else 0.0
    per_kind: dict[str, list[float]] = {}
    conv_maps = _conv_maps(specs, medians, step_s)
    for index, spec in enumerate(specs[1:], start=1):
        if spec in (*THIN, FAR_MAP):
            continue
        seconds = max(medians[index] - step_s, medians[index] / 4)
        if isinstance(spec, ConvSpec):
            maps_s = spec.map_elements * ELEMENT_BYTES[spec.element] * conv_maps.get(NEAR, 0.0)
            seconds = max(seconds - maps_s, seconds / 4)
            kind = kernel_class(spec)
            compute = LEAST_COMPUTE if kind.endswith("linear") else 1.0
            per_class.setdefault(kind, []).append(compute * seconds / computed(spec))
        else:
            kind = spec.costs_as
            per_kind.setdefault(kind, []).append(seconds / (spec.touched * ELEMENT_BYTES[spec.element]))
        if len(passes) > 1:  # one pass gives no spread
            spreads[kind] = max(spreads.get(kind, 0.0), spread([values[index] for values in passes]))
    gammas = {kind: statistics.geometric_mean(values) for kind, values in per_class.items()}
    maps = {kind: statistics.geometric_mean(values) for kind, values in per_kind.items()}
    gammas, maps = {**_defaults(gammas, DENSE, "int8_"), **gammas}, {**_defaults(maps, PLAIN, "uint8_"), **maps}
    stretches = [
        mean / fastest - 1
        for answer in answers
        for mean, fastest in zip(answer.seconds, answer.fastest_s, strict=True)
        if fastest > 0
    ]
    return Figures(
        gammas,
        step_s,
        1 / max(statistics.median(answer.copy_bytes_per_s for answer in answers), 1.0),
        weight_s_per_byte,
        spreads,
        statistics.median(stretches) if stretches else 0.0,
        max(answer.other_cores for answer in answers),
        {**maps, **({"conv": conv_maps[NEAR]} if NEAR in conv_maps else {})},
        _far(dict(zip(specs, medians, strict=True)), step_s, maps, conv_maps),
    )


def _defaults(rates: Mapping[str, float], kinds: Sequence[str], prefix: str) -> dict[str, float]:
    """What is taken of a kind that was not measured: the mean of some; and likewise of those whose names have the prefix."""
    found = {}
    for each in ("", prefix):
        known = [rates[each + kind] for kind in kinds if each + kind in rates]
        if known:
            found[f"{each}default"] = statistics.geometric_mean(known)
    return found


def _conv_maps(specs: Sequence[StepSpec], seconds: Sequence[float], step_s: float) -> dict[ConvSpec, float]:
    """What a byte of a conv's maps takes beside its MACs, of each of THIN that was measured: their time beyond what their
    MACs would take in a conv of the same class with many channels."""
    wide = [
        (each - step_s) / computed(spec)
        for spec, each in zip(specs, seconds, strict=True)
        if isinstance(spec, ConvSpec) and kernel_class(spec) == kernel_class(NEAR) and spec not in (*THIN, TINY)
    ]
    if not wide:
        return {}
    gamma = statistics.median(wide)
    return {
        spec: max(0.0, each - step_s - gamma * spec.macs) / (spec.map_elements * BYTES_PER_ELEMENT)
        for spec, each in zip(specs, seconds, strict=True)
        if isinstance(spec, ConvSpec) and spec in THIN
    }


def _far(
    seconds: Mapping[StepSpec, float], step_s: float, maps: Mapping[str, float], conv_maps: Mapping[ConvSpec, float]
) -> dict[str, float]:
    """What a byte costs more in maps that no cache holds, of convs and of other steps, where both sizes were measured."""
    # Transposing is not bound by memory.
    found = {"transpose": 0.0}
    if FAR_MAP in seconds and FAR_MAP.kind in maps:
        far = max(0.0, seconds[FAR_MAP] - step_s) / (FAR_MAP.touched * BYTES_PER_ELEMENT)
        found["default"] = max(0.0, far - maps[FAR_MAP.kind])
    if NEAR in conv_maps and FAR in conv_maps:
        found["conv"] = max(0.0, conv_maps[FAR] - conv_maps[NEAR])
    return found


def measured_here(specs: Sequence[StepSpec], repeats: int) -> Measured:
    """Times of the master's own kernels, measured as on its workers."""
    from fogconv.cluster.executor.executors import executor
    from fogconv.cluster.executor.microbenchmark import copy_bytes_per_s, step_times
    from fogconv.cluster.worker.machine import LoadMeter, OtherWork
    from fogconv.cluster.worker.process import cores

    others = OtherWork()
    times = step_times(specs, executor(), threads=cores(), repeats=repeats, meter=LoadMeter())
    seconds, fastest = tuple(each.mean_s for each in times), tuple(each.fastest_s for each in times)
    return Answer(seconds, copy_bytes_per_s(), fastest, others.cores(), tuple(each.load for each in times))
