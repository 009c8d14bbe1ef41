"""Topology: the devices of a cluster and the links between them, measured or estimated.

    γ   seconds per MAC on one device, per kernel class   (Device.gamma_s_per_mac)
    α   seconds per message                               (Link.latency_s)
    β   seconds per element on the wire                   (Link.s_per_byte × bytes per element)
    M   elements per message                              (Link.message_elements)

Rank 0 is the master. Links are directional. An unmeasured link between two workers is assumed to be as fast as the slower
of the two cards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fogconv.errors import TopologyError, shown
from fogconv.hardware.hostfile import Host, read_hostfile
from fogconv.hardware.tiers import check_tier
from fogconv.ir.geometry import BYTES_PER_ELEMENT, ConvSpec, StepSpec
from fogconv.ir.memory.algorithm import Vectors
from fogconv.ir.precision.elements import ELEMENT_BYTES, Element
from fogconv.values import table

__all__ = ["HERE", "INT8_CLASSES", "KERNEL_CLASSES", "Device", "Host", "Link", "Topology", "kernel_class", "read_hostfile"]

KERNEL_CLASSES = ("direct1x1", "direct", "winograd", "depthwise", "grouped", "first", "linear")
"""Kinds of conv kernels whose seconds per MAC differ enough to be measured separately."""

INT8_CLASSES = tuple(f"int8_{kind}" for kind in KERNEL_CLASSES if kind != "winograd")
"""The same of 8-bit maps, measured where a network has such."""

NARROW: Mapping[Element, str] = {"uint8": "int8", "fp16": "fp16", "bf16": "bf16"}
"""What the names of the classes of other elements than fp32 begin with."""


def kernel_class(spec: ConvSpec) -> str:
    """The kernel class whose γ applies to this conv: one of KERNEL_CLASSES, or of INT8_CLASSES and the like."""
    if spec.element != "fp32":
        of_floats = kernel_class(replace(spec, element="fp32"))
        exact = spec.element == "uint8" and of_floats == "winograd"  # 8 bits are summed exactly, without transforms
        return f"{NARROW[spec.element]}_{'direct' if exact else of_floats}"
    if spec.depthwise:
        return "depthwise"
    if spec.groups > 1:
        return "grouped"
    if (spec.out_height, spec.out_width) == (1, 1) and spec.kernel == (spec.height, spec.width):
        return "linear"
    if spec.in_channels <= 4:
        return "first"
    if spec.kernel == (1, 1):
        return "direct1x1"
    if spec.kernel == (3, 3) and spec.stride == (1, 1) and spec.dilation == (1, 1):
        return "winograd"
    return "direct"


MOST = 1e15
"""Of any cost in seconds, joules or bytes, and of any count: sums of more are no longer finite."""

_DEVICE_COSTS = (
    "copy_s_per_byte",
    "step_s",
    "joules_per_mac",
    "message_s",
    "weight_s_per_byte",
    "send_s_per_byte",
    "receive_s_per_byte",
    "period_s",
    "tick_s",
    "idle_watts",
    "busy_watts",
    "read_bytes_per_s",
)


NEAR_BYTES, FAR_BYTES = 3e6, 50e6
"""A step's maps of so many bytes in all stay in a cache; those of so many do not. Both are sizes that are measured
(`fogconv.calibration.devices`); between them costs grow with the logarithm."""

USUAL_READ_BYTES_PER_S = 40e6
"""Of a disk whose rate is not known: an SD card in a Raspberry Pi 4."""


def _not_negative(whose: str, what: str, value: float) -> None:
    _require(0 <= value <= MOST, f"{whose}: {what} is {value}; it must not be negative, nor above {MOST:g}")


def _count(whose: str, what: str, value: int | None) -> None:
    right = value is None or 1 <= value <= MOST
    _require(right, f"{whose}: {what} is {shown(value)}; it must be at least 1, and at most {MOST:g}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise TopologyError(message)


@dataclass(frozen=True, slots=True)
class Device:
    """One rank's computer. ``gamma_s_per_mac`` needs a "default"; the other kernel classes fall back to it.

    ``copy_s_per_byte`` is the cost of cutting, joining and adding maps in memory; ``step_s`` is the fixed cost of one
    step of a program (a kernel call, a frame passed to the transport), ``message_s`` the additional processor time to
    send or receive one message, on all threads: little on a fast device, and most of a small layer on a slow one.
    ``weight_s_per_byte`` is the cost of reading a conv's weights from memory, which a shard of rows pays in full.
    ``effort`` returns the MACs that γ counts for a conv, where its kernels' tiles are known to do more or fewer than the
    definition. ``send_s_per_byte`` and ``receive_s_per_byte`` are the processor time per byte to and from the card (the
    transport, the system's copies). ``map_s_per_byte`` is the cost of a byte that a step other than a conv reads or
    writes, by its kind ("default": of any other; "uint8_add": of bytes), and that of the maps of a conv beside its MACs
    ("conv"; nothing where it was not measured). These are of maps that stay in a cache; ``far_s_per_byte`` is what larger
    ones cost beyond that, of the same kinds: all of it from `FAR_BYTES` on, nothing up to `NEAR_BYTES`. All of these are
    long-run averages. ``predicted`` returns the seconds of a step in fp32 that computes this (see
    `fogconv.hardware.latency.predictors`), instead of all of them.

    A device under a quota (a container's, a hypervisor's) computes in bursts: it has ``share`` of each ``period_s``,
    which the system enforces every ``tick_s`` (see `fogconv.simulation.processor`).

    ``training`` has measured costs of training's passes (see `fogconv.hardware.training_costs`); those that it lacks are
    assumed.

    ``idle_watts`` and ``busy_watts`` are the power of the whole device while it waits and while it computes, 0 where they
    are not known (see `fogconv.hardware.energy`).

    Devices of one ``machine`` (a name for the computer; empty: its own) share its ``machine_cores``: their rates are those
    of each alone, and `Topology.together_s` gives the time of several at once. ``read_bytes_per_s`` is the rate of the disk
    from which swapped weights are read; 0: not known. ``tier`` is one of `fogconv.hardware.tiers.TIERS`, or empty. Raises
    TopologyError for impossible rates.
    """

    name: str
    gamma_s_per_mac: Mapping[str, float]
    copy_s_per_byte: float = 0.0
    step_s: float = 0.0
    memory_bytes: int | None = None
    threads: int = 1
    address: str = ""
    joules_per_mac: float = 0.0
    message_s: float = 0.0
    weight_s_per_byte: float = 0.0
    send_s_per_byte: float = 0.0
    receive_s_per_byte: float = 0.0
    share: float = 1.0
    period_s: float = 0.0
    tick_s: float = 0.0
    machine: str = ""
    machine_cores: float = 0.0
    training: Mapping[str, float] = field(default_factory=dict)
    effort: Callable[[ConvSpec], float] | None = field(default=None, compare=False, repr=False)
    idle_watts: float = 0.0
    busy_watts: float = 0.0
    map_s_per_byte: Mapping[str, float] = field(default_factory=dict)
    predicted: Callable[[StepSpec], float] | None = field(default=None, compare=False, repr=False)
    read_bytes_per_s: float = 0.0
    tier: str = ""
    far_s_per_byte: Mapping[str, float] = field(default_factory=dict)
    multiplies: tuple[Element, ...] | None = None
    """The elements narrower than fp32 of which one instruction multiplies several; None: not known."""
    vectors: Vectors | None = None
    """By which its kernels' algorithms are chosen, and with them the bytes that they keep; None: not known."""

    def __post_init__(self) -> None:
        if "default" not in self.gamma_s_per_mac:
            raise TopologyError(
                f'device {self.name}: gamma_s_per_mac has no "default" (it has {sorted(self.gamma_s_per_mac)})'
            )
        for kind, gamma in self.gamma_s_per_mac.items():
            _require(
                table.GAMMA.least <= gamma <= table.GAMMA.most,
                f"device {self.name}: γ of {kind!r} is {gamma} s per MAC; it must be positive, "
                f"from {table.GAMMA.least:g} to {table.GAMMA.most:g}",
            )
        for what in _DEVICE_COSTS:
            _not_negative(f"device {self.name}", what, getattr(self, what))
        for kind, cost in self.map_s_per_byte.items():
            _not_negative(f"device {self.name}", f"map_s_per_byte of {kind!r}", cost)
        for kind, cost in self.far_s_per_byte.items():
            _not_negative(f"device {self.name}", f"far_s_per_byte of {kind!r}", cost)
        _require(0 < self.share <= 1, f"device {self.name}: share is {self.share}; it must be above 0 and at most 1")
        _require(
            self.share == 1 or (self.period_s > 0 and self.tick_s > 0),
            f"device {self.name}: a share of {self.share} needs a positive period_s and tick_s",
        )
        _count(f"device {self.name}", "memory_bytes", self.memory_bytes)
        _require(
            self.read_bytes_per_s == 0 or self.read_bytes_per_s >= 1,
            f"device {self.name}: read_bytes_per_s is {self.read_bytes_per_s}; it must be at least 1, or 0: not known",
        )
        if self.tier:
            check_tier(self.tier)
        _count(f"device {self.name}", "threads", self.threads)
        _not_negative(f"device {self.name}", "machine_cores", self.machine_cores)
        for key, cost in self.training.items():
            _not_negative(f"device {self.name}", f"training cost {key!r}", cost)

    def gamma(self, kind: str = "default") -> float:
        """γ of a kernel class in seconds per MAC, or the device's default.

        A class of 8 or 16 bits ("int8_direct") that was not measured is to the same one of floats as "int8_default" is to
        "default"; where that is not known, it is no faster.
        """
        known = self.gamma_s_per_mac
        if kind in known:
            return known[kind]
        element, _, of_floats = kind.rpartition("_")
        gamma = known.get(of_floats, known["default"])
        return gamma * known[f"{element}_default"] / known["default"] if f"{element}_default" in known else gamma

    def work_s(self, spec: StepSpec) -> float:
        """Seconds for what one step computes: the one price of it, for every plan, simulation and report.

        A conv's is `conv_s`. Any other step's is the bytes that it moves through memory × the rate of its kind, or else
        that of copying, where a byte is read and written, + the fixed cost of a step.
        """
        if isinstance(spec, ConvSpec):
            return self.conv_s(spec)
        if self.predicted is not None and spec.element == "fp32":
            return self.predicted(spec)
        rates = self.map_s_per_byte
        usual = rates.get("default", self.copy_s_per_byte / 2)
        s_per_byte = rates.get(spec.costs_as, rates.get(f"{spec.element}_default", rates.get(spec.kind, usual)))
        n_bytes = spec.touched * ELEMENT_BYTES[spec.element]
        return n_bytes * (s_per_byte + self._far_s_per_byte(spec.kind, n_bytes)) + self.step_s

    def _far_s_per_byte(self, kind: str, n_bytes: float) -> float:
        """What a byte of a step that moves so many costs beyond its rate, since caches don't hold them."""
        full = self.far_s_per_byte.get(kind, self.far_s_per_byte.get("default", 0.0))
        if not full or n_bytes <= NEAR_BYTES:
            return 0.0
        return full * min(1.0, math.log(n_bytes / NEAR_BYTES) / math.log(FAR_BYTES / NEAR_BYTES))

    def conv_s(self, spec: ConvSpec) -> float:
        """Seconds for a conv of this size: γ·MACs + its maps and its weights from memory + the fixed cost of a step."""
        if self.predicted is not None and spec.element == "fp32":
            return self.predicted(spec)
        weights_s = spec.weight_elements * ELEMENT_BYTES[spec.element] * self.weight_s_per_byte
        macs = spec.macs if self.effort is None else self.effort(spec)
        return macs * self.gamma(kernel_class(spec)) + self._maps_s(spec) + weights_s + self.step_s

    def _maps_s(self, spec: ConvSpec) -> float:
        if "conv" not in self.map_s_per_byte:
            return 0.0
        n_bytes = spec.map_elements * ELEMENT_BYTES[spec.element]
        return n_bytes * (self.map_s_per_byte["conv"] + self._far_s_per_byte("conv", n_bytes))

    def copy_s(self, n_bytes: float) -> float:
        """Seconds to copy (or add) so many bytes in memory."""
        return n_bytes * self.copy_s_per_byte

    def read_s(self, n_bytes: float) -> float:
        """Seconds to read so many bytes of swapped weights from the disk."""
        return n_bytes / (self.read_bytes_per_s or USUAL_READ_BYTES_PER_S)

    def scaled(self, rate: float) -> Device:
        """The same device ``rate`` times as fast. Raises TopologyError unless the rate is positive."""
        _require(rate > 0 and math.isfinite(rate), f"device {self.name}: rate is {rate}; it must be positive")
        gamma = {kind: value / rate for kind, value in self.gamma_s_per_mac.items()}
        predicted = self.predicted
        return replace(
            self,
            gamma_s_per_mac=gamma,
            copy_s_per_byte=self.copy_s_per_byte / rate,
            step_s=self.step_s / rate,
            message_s=self.message_s / rate,
            weight_s_per_byte=self.weight_s_per_byte / rate,
            send_s_per_byte=self.send_s_per_byte / rate,
            receive_s_per_byte=self.receive_s_per_byte / rate,
            training={key: cost / rate for key, cost in self.training.items()},
            map_s_per_byte={kind: value / rate for kind, value in self.map_s_per_byte.items()},
            predicted=None if predicted is None else lambda spec: predicted(spec) / rate,
            far_s_per_byte={kind: value / rate for kind, value in self.far_s_per_byte.items()},
        )


@dataclass(frozen=True, slots=True)
class Link:
    """One direction between two ranks.

    ``wake_s`` and ``wake_joules`` are what a sleeping radio needs before its first byte; ``message_elements`` is M, or None
    where a transfer of any size is one message. A shaped link lets ``burst_bytes`` pass at once after a rest. Raises
    TopologyError for negative or infinite figures, and for a link without a bandwidth.
    """

    latency_s: float
    s_per_byte: float
    wake_s: float = 0.0
    message_elements: int | None = None
    joules_per_byte: float = 0.0
    burst_bytes: float = 0.0
    wake_joules: float = 0.0

    def __post_init__(self) -> None:
        for what in ("latency_s", "s_per_byte", "wake_s", "joules_per_byte", "burst_bytes", "wake_joules"):
            _not_negative("link", what, getattr(self, what))
        _count("link", "message_elements", self.message_elements)

    @property
    def bandwidth_bytes_per_s(self) -> float:
        return 1 / self.s_per_byte if self.s_per_byte else math.inf

    def messages(self, elements: float) -> int:
        """The number of messages for so many elements."""
        if not elements:
            return 0
        return 1 if self.message_elements is None else math.ceil(elements / self.message_elements)

    def seconds(self, elements: float, bytes_per_element: float = BYTES_PER_ELEMENT) -> float:
        """⌈elements ÷ M⌉·α + elements·β; 0 for no elements. The wake-up time is not included."""
        return self.messages(elements) * self.latency_s + elements * bytes_per_element * self.s_per_byte


def together_s(seconds: Mapping[int, float], machine_loads: Iterable[Mapping[int, float]]) -> float:
    """The slowest rank decides; ranks of one machine (see `Topology.machine_loads`) take turns on its cores."""
    longest = max(seconds.values(), default=0.0)
    for loads in machine_loads:
        longest = max(longest, sum(seconds.get(rank, 0.0) * load for rank, load in loads.items()))
    return longest


HERE = Link(0.0, 0.0)
"""From a rank to itself."""


@dataclass(frozen=True, slots=True)
class Topology:
    """``devices[0]`` is the master; ``links[i, j]`` is the link from rank i to rank j.

    Each worker needs a link from the master and one back, or ``default_link`` is used. Raises TopologyError where one is
    missing, or names a rank that does not exist.
    """

    devices: tuple[Device, ...]
    links: Mapping[tuple[int, int], Link] = field(default_factory=dict)
    default_link: Link | None = None

    def __post_init__(self) -> None:
        n = len(self.devices)
        _require(n >= 1, "a topology needs at least one device, the master")
        for i, j in self.links:
            _require(0 <= i < n and 0 <= j < n and i != j, f"link {i}→{j}: there are ranks 0 to {n - 1}")
        if self.default_link is None:
            for i in range(1, n):
                for pair in ((0, i), (i, 0)):
                    _require(pair in self.links, f"the link {pair[0]}→{pair[1]} is missing: rank {i} could not be used")

    @staticmethod
    def uniform(
        n_ranks: int,
        rate_flop_per_s: float,
        bandwidth_bytes_per_s: float,
        latency_s: float = 0.0,
        *,
        copy_s_per_byte: float = 0.0,
        step_s: float = 0.0,
        memory_bytes: int | None = None,
    ) -> Topology:
        """Equal devices on equal links. One MAC is two FLOP. Raises TopologyError for zero or negative figures."""
        most = table.MOST_SIMULATED_WORKERS + 1
        _require(1 <= n_ranks <= most, f"a cluster of {n_ranks} ranks: there must be at least 1, and at most {most}")
        _require(rate_flop_per_s > 0, f"the rate is {rate_flop_per_s} FLOP/s; it must be positive")
        _require(bandwidth_bytes_per_s > 0, f"the bandwidth is {bandwidth_bytes_per_s} B/s; it must be positive")
        gamma = {"default": 2 / rate_flop_per_s}
        devices = tuple(Device(f"rank {rank}", gamma, copy_s_per_byte, step_s, memory_bytes) for rank in range(n_ranks))
        return Topology(devices, {}, Link(latency_s, 1 / bandwidth_bytes_per_s))

    def __len__(self) -> int:
        return len(self.devices)

    @property
    def ranks(self) -> range:
        return range(len(self.devices))

    @property
    def workers(self) -> range:
        """All ranks but the master."""
        return range(1, len(self.devices))

    def link(self, i: int, j: int) -> Link:
        """From rank i to rank j, measured or, between workers, derived from both cards."""
        if i == j:
            return HERE
        found = self.links.get((i, j), self.default_link)
        if found is not None:
            return found
        return Link(
            max(self.links[i, 0].latency_s, self.links[0, j].latency_s),
            max(self.card(i)[0], self.card(j)[1]),
            max(self.links[i, 0].wake_s, self.links[0, j].wake_s),
            self.links[i, 0].message_elements,
            max(self.links[i, 0].joules_per_byte, self.links[0, j].joules_per_byte),
            min(self.links[i, 0].burst_bytes, self.links[0, j].burst_bytes),
            max(self.links[i, 0].wake_joules, self.links[0, j].wake_joules),
        )

    def rate(self, rank: int, kind: str = "default") -> float:
        """MAC/s of a rank, for one kernel class."""
        return 1 / self.devices[rank].gamma(kind)

    def card(self, rank: int) -> tuple[float, float]:
        """(transmit, receive) seconds per byte of a rank's network card: that of its fastest link each way."""
        fallback = self.default_link.s_per_byte if self.default_link is not None else 0.0
        tx = min((link.s_per_byte for (i, _), link in self.links.items() if i == rank), default=fallback)
        rx = min((link.s_per_byte for (_, j), link in self.links.items() if j == rank), default=fallback)
        return tx, rx

    @property
    def shared_machines(self) -> tuple[tuple[tuple[int, ...], float], ...]:
        """(ranks, cores) of every machine that several ranks run on, where its number of cores is known."""
        found: dict[str, list[int]] = {}
        for rank, device in enumerate(self.devices):
            if device.machine and device.machine_cores:
                found.setdefault(device.machine, []).append(rank)
        shared = (ranks for ranks in found.values() if len(ranks) > 1)
        return tuple((tuple(ranks), max(self.devices[rank].machine_cores for rank in ranks)) for ranks in shared)

    @property
    def machine_loads(self) -> tuple[Mapping[int, float], ...]:
        """Per shared machine, how much of it each of its ranks keeps busy while it computes, from 0 to 1.

        By its threads of the machine's cores, and at least by its rate of what the rank with the most threads shows that
        the machine can do: where that one has all cores, the others add nothing.
        """
        found = []
        for ranks, cores in self.shared_machines:
            threads = {rank: min(self.devices[rank].threads, cores) for rank in ranks}
            widest = max(ranks, key=lambda rank: threads[rank])
            capacity = self.rate(widest) * cores / threads[widest]
            found.append({rank: max(threads[rank] / cores, min(1.0, self.rate(rank) / capacity)) for rank in ranks})
        return tuple(found)

    def together_s(self, seconds: Mapping[int, float]) -> float:
        """How long ranks take that work at the same time, each of which takes ``seconds[rank]`` alone."""
        return together_s(seconds, self.machine_loads)

    def slowed(self, factor: float) -> Topology:
        """All devices so many times slower, and the messages between ranks of one machine."""
        devices = tuple(device.scaled(1 / factor) for device in self.devices)
        return replace(self.messages_slowed(factor), devices=devices)

    def messages_slowed(self, factor: float) -> Topology:
        """The messages between ranks of one machine take so many times as long: its processor hands them over."""
        links = dict(self.links)
        for ranks, _ in self.shared_machines:
            for pair in ((i, j) for i in ranks for j in ranks if (i, j) in links):
                links[pair] = replace(links[pair], latency_s=links[pair].latency_s * factor)
        return replace(self, links=links)

    def crowding(self, ranks: Sequence[int]) -> dict[int, float]:
        """How many times slower than alone each of ``ranks`` computes at most while all of these do: 1 where it has its
        cores for itself."""
        found = dict.fromkeys(ranks, 1.0)
        for sharing, cores in self.shared_machines:
            mine = [rank for rank in sharing if rank in found]
            threads = sum(min(self.devices[rank].threads, cores) for rank in mine)
            found |= dict.fromkeys(mine, max(1.0, threads / cores))
        return found

    def without(self, rank: int) -> Topology:
        """The cluster after losing a worker; higher ranks move down by one. Raises TopologyError for the master."""
        return self.subset([other for other in self.ranks if other != rank], lost=rank)

    def subset(self, ranks: Sequence[int], *, lost: int | None = None) -> Topology:
        """These ranks only, renumbered in the order given; the first must be 0."""
        if lost == 0 or not ranks or ranks[0] != 0:
            raise TopologyError("rank 0 is the master: there is no cluster without it")
        if any(rank not in self.ranks for rank in (*ranks, *(() if lost is None else (lost,)))):
            raise TopologyError(f"ranks {list(ranks)}: there are ranks 0 to {len(self) - 1}")
        new = {old: i for i, old in enumerate(ranks)}
        links = {(new[i], new[j]): link for (i, j), link in self.links.items() if i in new and j in new}
        return Topology(tuple(self.devices[old] for old in ranks), links, self.default_link)

    def in_tiers(self, tiers: Mapping[int, str]) -> Topology:
        """With the tiers of these ranks, where they are of it."""
        return replace(
            self,
            devices=tuple(replace(each, tier=tiers.get(rank, each.tier)) for rank, each in enumerate(self.devices)),
        )

    def replace_device(self, rank: int, device: Device) -> Topology:
        devices = tuple(device if i == rank else old for i, old in enumerate(self.devices))
        return replace(self, devices=devices)
