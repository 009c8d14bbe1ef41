"""Calibration: the devices and links of a session as a Topology, and where each of its figures comes from.

`calibrate_quickly` keeps under 2 s on a quiet machine and remembers what it finds; `calibrate` takes its time and gives the
spreads. What inferences find to be wrong goes back into the memory by `Calibration.learn`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from fogconv.calibration.cache import (
    CACHE_VERSION,
    KnownLink,
    KnownRates,
    Master,
    Worker,
    default_folder,
    device_key,
    link_key,
    recall,
    remember,
)
from fogconv.calibration.devices import (
    FULL,
    FULL_MAPS,
    QUICK,
    QUICK_MAPS,
    Figures,
    Local,
    disturbed,
    measure_devices,
    measure_disks,
)
from fogconv.calibration.devices import Session as MeasuringSession
from fogconv.calibration.links import LEAST_S_PER_BYTE, MessageCosts, RoundTrips, measure_link, message_costs
from fogconv.calibration.members import machine_cores, machines_of, master
from fogconv.calibration.narrow import INT8, INT8_MAPS, missing, with_figures
from fogconv.calibration.rate_source import RateSource, assumed, rates_of
from fogconv.errors import WorkerLostError
from fogconv.hardware.profile import Profile, ProfileDevice, ProfileLink
from fogconv.hardware.topology import Topology
from fogconv.ir.geometry import BYTES_PER_ELEMENT, StepSpec
from fogconv.ir.precision.elements import Element

NEAR_MEMORY = 2.0
FASTEST_WIRE_S_PER_BYTE = 8 / 100e9
"""100 Gbit/s: what one connection does not reach over any wire between small computers."""
LONG_PROBE_S = 0.1
"""For the long way: well beyond what a shaper lets pass in a burst."""
HERE_AGE_S = 3600.0
"""So long serves what was measured beside other work where all ranks are in this process."""
BUDGET_S = 20.0
"""`fogconv calibrate` passes over the devices as often as this allows, three times at most; links take the rest of 30 s."""


class Session(MeasuringSession, Protocol):
    """What calibration asks of `fogconv.cluster.session.session.Session`."""

    @property
    def scheme(self) -> str: ...
    @property
    def ranks(self) -> int: ...
    @property
    def workers(self) -> Sequence[Worker]: ...
    def refresh(self) -> frozenset[int]: ...
    @property
    def walked(self) -> bool: ...
    def ping(self, rank: int, nbytes: int = 0, back_bytes: int | None = None) -> RoundTrips: ...
    def idle(self, seconds: float) -> None: ...
    def read_rate(self, rank: int, disk_bytes: int) -> float: ...


@dataclass(frozen=True)
class Calibration:
    """What `calibrate_quickly` found. ``device_keys`` and ``link_keys`` are per rank (the master's link has none)."""

    topology: Topology
    sources: tuple[RateSource, ...]
    folder: Path | None
    device_keys: tuple[str, ...]
    link_keys: tuple[str, ...]

    @property
    def disturbed(self) -> frozenset[int]:
        """The ranks whose rates were measured beside other work."""
        return frozenset(source.rank for source in self.sources if source.disturbed)

    def learn(self, slow: Mapping[int, float], thin: Mapping[tuple[int, int], float]) -> None:
        """Keep what inferences found: ranks and links (from, to) by how many times slower they are than the topology says.

        It is measured again at the next occasion, and a measurement beside other work does not displace what runs found. A
        figure that several ranks have in common changes by their median.
        """
        for key in {self.device_keys[rank] for rank in slow}:
            ratio = statistics.median(slow.get(rank, 1.0) for rank, own in enumerate(self.device_keys) if own == key)
            known = recall(self.folder, key, KnownRates)
            if known is not None and ratio != 1:
                device = _slowed(known.device, ratio)
                remember(
                    self.folder,
                    key,
                    msgspec.structs.replace(
                        known, device=device, origin="runs", disturbed=ratio > 1, measured_at=time.time()
                    ),
                )
        for rank in {max(pair) for pair in thin if 0 in pair}:
            link = recall(self.folder, self.link_keys[rank], KnownLink)
            if link is not None:
                there, back = (
                    msgspec.structs.replace(way, beta_s_per_element=way.beta_s_per_element * thin.get(pair, 1.0))
                    for way, pair in ((link.there, (0, rank)), (link.back, (rank, 0)))
                )
                remember(
                    self.folder, self.link_keys[rank], msgspec.structs.replace(link, there=there, back=back, disturbed=True)
                )


def calibrate_quickly(
    session: Session,
    *,
    cache: Path | None = None,
    refresh: bool = False,
    local: Local | None = None,
    priors: Mapping[int, float] = {},
    disks: bool = False,
    elements: Collection[Element] = (),
) -> Calibration:
    """Measure what is not remembered, or all with ``refresh``, in under 2 s once kernels are compiled.

    A worker that is lost meanwhile is taken to be like the slowest of the others, or, where ``priors`` (see
    `fogconv.calibration.members.priors_of`) has a rate for both, as many times as fast: it may come back. ``cache`` is a
    folder (by default the user's cache folder); one that can't be written is done without. ``disks``: also measure how
    fast the ranks read what they swap, which takes a second or two more. ``elements``: also measure steps on these (see
    `fogconv.calibration.narrow.elements_of`), another second.
    """
    folder = cache or default_folder()
    while True:
        workers = sorted(session.workers, key=lambda worker: worker.rank)
        try:
            return _Quick(session, workers, folder, refresh, local, disks, elements).calibration(priors)
        except WorkerLostError:
            session.refresh()
            if len(session.workers) == len(workers):
                raise


class _Quick:
    """One attempt, with the workers that are there."""

    def __init__(
        self,
        session: Session,
        workers: Sequence[Worker],
        folder: Path | None,
        refresh: bool,
        local: Local | None,
        disks: bool,
        elements: Collection[Element],
    ) -> None:
        self.session, self.workers, self.folder, self.refresh, self.local = session, workers, folder, refresh, local
        self.disks, self.elements = disks, elements
        self.begin = time.time()
        self.members: dict[int, Worker | Master] = {0: master(), **{worker.rank: worker for worker in workers}}
        machines = [member.machine.identity for member in self.members.values()]
        self.ranks_here = {
            rank: max(1, machines.count(member.machine.identity) if member.machine.identity else 1)
            for rank, member in self.members.items()
        }
        self.keys = {rank: device_key(member, self.ranks_here[rank]) for rank, member in self.members.items()}
        self.links = {w.rank: link_key(session.scheme, w, self.keys[0], self.keys[w.rank]) for w in workers}

    def calibration(self, priors: Mapping[int, float]) -> Calibration:
        rates = self._rates()
        links = self._links(least_s_per_byte(rates[0].device))
        costs = MessageCosts(0.0, 0.0, 0.0)
        if links:
            first = links[min(links)]
            costs = MessageCosts(first.message_s, first.send_s_per_byte, first.receive_s_per_byte)
        cores = machine_cores([member.machine for member in self.members.values()])
        devices = {
            rank: _profile_device(member, rates[rank].device, rates[0].device, costs, cores)
            for rank, member in self.members.items()
        }
        sources = {rank: self._source(rank, rates[rank]) for rank in self.members}
        if not self.workers:
            topology = Profile(1, (devices[0],), ()).topology("calibration")
            return Calibration(topology, (sources[0],), self.folder, (self.keys[0],), ("",))
        slowest = max(links, key=lambda rank: devices[rank].gamma_s_per_mac["default"])
        like = {rank: rank if rank in links else slowest for rank in range(1, self.session.ranks)}
        ways = [
            msgspec.structs.replace(way, origin=origin, to=to)
            for rank, found in like.items()
            for way, origin, to in ((links[found].there, 0, rank), (links[found].back, rank, 0))
        ]
        faster = {
            rank: priors[rank] / priors[found] if rank != found and rank in priors and found in priors else 1.0
            for rank, found in like.items()
        }
        workers = (_slowed(devices[found], 1 / faster[rank]) for rank, found in like.items())
        profile = Profile(1, (devices[0], *workers), tuple(ways))
        return Calibration(
            profile.topology("calibration"),
            (
                sources[0],
                *(sources[r] if r == found else assumed(sources[found], r, faster[r]) for r, found in like.items()),
            ),
            self.folder,
            (self.keys[0], *(self.keys[found] for found in like.values())),
            ("", *(self.links[found] for found in like.values())),
        )

    def _rates(self) -> dict[int, KnownRates]:
        """By rank: remembered, or measured and remembered; ranks of one key are measured once."""
        known: dict[str, KnownRates] = {}
        learnt: dict[str, KnownRates] = {}
        for key in set() if self.refresh else set(self.keys.values()):
            found = recall(self.folder, key, KnownRates)
            if found is not None and found.origin == "runs":
                learnt[key] = found
            elif found is not None and (not found.disturbed or self._decides_little(found)):
                known[key] = found
        unknown: dict[str, int] = {}
        for rank, key in self.keys.items():
            if key not in known:
                unknown.setdefault(key, rank)
        if unknown:
            figures = self._measured((*QUICK, *QUICK_MAPS), unknown.values())
            for key, rank in unknown.items():
                known[key] = self._found(rank, figures[rank])
                if known[key].disturbed and key in learnt:
                    known[key] = learnt[key]
                else:
                    remember(self.folder, key, known[key])
        self._add_elements(known)
        if self.disks:
            self._add_disks(known)
        return self._plausible({rank: known[key] for rank, key in self.keys.items()})

    def _decides_little(self, found: KnownRates) -> bool:
        """In one process the rates only say how long a run will take: its ranks are alike, and gain nothing by each other.
        On a busy machine each start would take a second to measure them again."""
        here = self.session.ranks == 1 or self.session.scheme == "inproc"
        return here and time.time() - found.measured_at < HERE_AGE_S

    def _measured(self, specs: Sequence[StepSpec], ranks: Iterable[int]) -> dict[int, Figures]:
        machines = {rank: self.members[rank].machine.identity for rank in ranks}
        return measure_devices(self.session, specs, ranks=machines, repeats=3, local=self.local)

    def _add_elements(self, known: dict[str, KnownRates]) -> None:
        """Measure steps on elements of which nothing is known, on one rank of each key."""
        wanted: dict[tuple[StepSpec, ...], dict[str, int]] = {}
        for rank, key in self.keys.items():
            wanted.setdefault(missing(known[key].device, self.elements), {}).setdefault(key, rank)
        for specs, ranks in wanted.items():
            if not specs:
                continue
            figures = self._measured(specs, ranks.values())
            for key, rank in ranks.items():
                beside = disturbed(figures[rank], self.members[rank].threads, self.members[rank].machine)
                known[key] = msgspec.structs.replace(
                    known[key],
                    device=with_figures(known[key].device, figures[rank]),
                    disturbed=known[key].disturbed or beside,
                )
                remember(self.folder, key, known[key])

    def _add_disks(self, known: dict[str, KnownRates]) -> None:
        """Measure the disks that are not known, one of each key."""
        unknown: dict[str, int] = {}
        for rank, key in self.keys.items():
            if not known[key].device.read_bytes_per_s:
                unknown.setdefault(key, rank)
        rates = measure_disks(self.session, unknown.values())
        for key, rank in unknown.items():
            device = msgspec.structs.replace(known[key].device, read_bytes_per_s=rates[rank])
            known[key] = msgspec.structs.replace(known[key], device=device)
            remember(self.folder, key, known[key])

    def _plausible(self, rates: Mapping[int, KnownRates]) -> dict[int, KnownRates]:
        """With as many threads as another rank of its computer, or more, no rank is slower. Whose rates say so was measured
        beside other work, and gets the other's; else a plan would seem to gain by moving work from one to the other."""
        found = dict(rates)
        for rank, known in rates.items():
            if not known.disturbed:
                continue
            own = self.members[rank]
            for other, member in self.members.items():
                alike = member.machine.device == own.machine.device and member.kernels == own.kernels
                if own.machine.device and alike and member.threads <= own.threads:
                    faster = rates[other].device.gamma_s_per_mac
                    gamma = {kind: min(s, faster.get(kind, s)) for kind, s in found[rank].device.gamma_s_per_mac.items()}
                    device = msgspec.structs.replace(found[rank].device, gamma_s_per_mac=gamma)
                    found[rank] = msgspec.structs.replace(found[rank], device=device)
        return found

    def _found(self, rank: int, figures: Figures) -> KnownRates:
        member = self.members[rank]
        return KnownRates(
            CACHE_VERSION,
            time.time(),
            _device(member, figures),
            figures.stretch,
            figures.other_cores,
            disturbed(figures, member.threads, member.machine),
            self.ranks_here[rank],
        )

    def _links(self, least: float) -> dict[int, KnownLink]:
        known: dict[str, KnownLink] = {}
        if not self.refresh:
            for key in self.links.values():
                found = recall(self.folder, key, KnownLink)
                if found is not None and not found.disturbed:
                    known[key] = found
        if any(key not in known for key in self.links.values()):
            costs = message_costs(self.session)
            for rank, key in self.links.items():
                if key not in known:
                    there, back, _ = measure_link(self.session, rank, rounds=5, least_s_per_byte=least)
                    spent = (costs.message_s, costs.send_s_per_byte, costs.receive_s_per_byte)
                    known[key] = KnownLink(CACHE_VERSION, time.time(), there, back, *spent)
                    remember(self.folder, key, known[key])
        return {rank: known[key] for rank, key in self.links.items()}

    def _source(self, rank: int, known: KnownRates) -> RateSource:
        now = time.time()
        if known.origin == "runs":
            origin = "learnt from runs"
        else:
            origin = "measured now" if known.measured_at >= self.begin else "remembered"
        return RateSource(
            rank,
            self.members[rank].host,
            self.members[rank].threads,
            origin,
            rates_of(known.device.gamma_s_per_mac),
            max(0.0, now - known.measured_at),
            known.disturbed,
            known.spread,
            known.other_cores,
        )


def calibrate(
    session: Session,
    *,
    specs: Sequence[StepSpec] = (*FULL, *INT8, *FULL_MAPS, *INT8_MAPS),
    repeats: int = 7,
    rounds: int = 15,
    local: Local | None = None,
) -> Profile:
    """Measure everything, several times over, with spreads: (third quartile − first) ÷ median."""
    workers = sorted(session.workers, key=lambda worker: worker.rank)
    members: dict[int, Worker | Master] = {0: master(), **{worker.rank: worker for worker in workers}}
    figures = measure_devices(
        session, specs, ranks=machines_of(session), repeats=repeats, passes=3, budget_s=BUDGET_S, local=local
    )
    costs = message_costs(session)
    cores = machine_cores([member.machine for member in members.values()])
    disks = measure_disks(session, members)
    found = {
        rank: msgspec.structs.replace(_device(member, figures[rank]), read_bytes_per_s=disks[rank])
        for rank, member in members.items()
    }
    devices = tuple(_profile_device(member, found[rank], found[0], costs, cores) for rank, member in members.items())
    spreads = {f"gamma rank {rank} {kind}": value for rank in members for kind, value in figures[rank].spreads.items()}
    links = []
    for worker in workers:
        there, back, link_spreads = measure_link(
            session, worker.rank, rounds=rounds, probe_s=LONG_PROBE_S, least_s_per_byte=least_s_per_byte(devices[0])
        )
        links += [there, back]
        spreads |= link_spreads
    return Profile(1, devices, tuple(links), spreads)


def least_s_per_byte(device: ProfileDevice) -> float:
    """What a byte takes from or to this device at least: a copy in its memory."""
    return max(device.copy_s_per_byte, LEAST_S_PER_BYTE)


def too_fast_to_tell(profile: Profile, link: ProfileLink[int]) -> bool:
    """Whether a link's β is that of memory: what goes over it is handed on there, or its time is noise."""
    seconds = max(NEAR_MEMORY * least_s_per_byte(profile.devices[0]), FASTEST_WIRE_S_PER_BYTE)
    return link.beta_s_per_element <= BYTES_PER_ELEMENT * seconds


def _device(member: Worker | Master, figures: Figures) -> ProfileDevice:
    return ProfileDevice(
        member.host,
        figures.gamma_s_per_mac,
        copy_s_per_byte=figures.copy_s_per_byte,
        step_s=figures.step_s,
        threads=max(1, member.threads),
        weight_s_per_byte=figures.weight_s_per_byte,
        map_s_per_byte=figures.map_s_per_byte,
        far_s_per_byte=figures.far_s_per_byte,
    )


def _profile_device(
    member: Worker | Master, found: ProfileDevice, first: ProfileDevice, costs: MessageCosts, cores: Mapping[str, float]
) -> ProfileDevice:
    """A device with what concerns this session. Only the master's processor time for messages can be seen; a worker's is
    taken to differ as its rate does."""
    own = costs.scaled(found.gamma_s_per_mac["default"] / first.gamma_s_per_mac["default"])
    return msgspec.structs.replace(
        found,
        name=member.host if member.rank else "master",
        address=member.address,
        memory_bytes=member.memory_limit_bytes or None,
        message_s=own.message_s,
        send_s_per_byte=own.send_s_per_byte,
        receive_s_per_byte=own.receive_s_per_byte,
        machine=member.machine.identity,
        machine_cores=cores.get(member.machine.identity, 0.0),
        multiplies=member.multiplies,
        vectors=member.vectors,
    )


def _slowed(device: ProfileDevice, ratio: float) -> ProfileDevice:
    if ratio == 1:
        return device
    [found] = Profile(1, (device,), ()).topology().devices
    return Profile.of(Topology((found.scaled(1 / ratio),))).devices[0]
