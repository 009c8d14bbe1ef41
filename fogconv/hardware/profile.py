"""Profile: a measured cluster as plain JSON that can be edited; `fogconv calibrate` writes it.

    {"fogconv_profile": 1,
     "devices": [{"name": "pi5", "address": "tcp://10.0.0.2:5555", "gamma_s_per_mac": {"default": 1.1e-10, "linear": 4e-10},
                  "copy_s_per_byte": 2e-10, "step_s": 1e-5, "memory_bytes": null, "threads": 4}, …],
     "links": [{"origin": 0, "to": 1, "alpha_s": 2e-4, "beta_s_per_element": 3.2e-7, "message_elements": null}, …],
     "spreads": {"gamma rank 1 direct": 0.02, "beta 0→1": 0.01}}

``devices[0]`` is the master. A device may have a "tier": "device", "edge" or "cloud". Ranks without a link of their own have
their tiers' link, in both directions unless the way back is listed too:

     "tier_links": [{"origin": "device", "to": "edge", "alpha_s": 2e-3, "beta_s_per_element": 1.8e-6}, …]

 β is for elements of 4 bytes. A spread is (the third quartile − the first) ÷ the median of
the repeats of one measurement. With a ``predictor`` (see `fogconv.hardware.latency.predictors`) it predicts steps instead of
γ and the other rates, fitted to each device's ``samples`` and ``map_samples``, for its usual load: the middle of theirs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from fogconv.errors import GeometryError, TopologyError
from fogconv.hardware.latency.features import computed
from fogconv.hardware.latency.kernels import Rules
from fogconv.hardware.latency.predictors import check_predictor, fit
from fogconv.hardware.latency.samples import IDLE, DeviceLoad, Sample
from fogconv.hardware.tiers import check_tier, linked
from fogconv.hardware.topology import Device, Link, Topology
from fogconv.ir.geometry import BYTES_PER_ELEMENT, ConvSpec, MapSpec, StepSpec
from fogconv.ir.memory.algorithm import Vectors
from fogconv.ir.precision.elements import Element
from fogconv.storage.trusted import read_plain
from fogconv.values import table

VERSION = 1

End = TypeVar("End", int, str)
"""Of a link: a rank, or a tier."""


class ProfileSample(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """One timed conv: its sizes as in ConvSpec, its seconds, and the device's load meanwhile."""

    channels: tuple[int, int]
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    seconds: float
    load: DeviceLoad = IDLE

    @staticmethod
    def of(spec: ConvSpec, seconds: float, load: DeviceLoad = IDLE) -> ProfileSample:
        channels, size = (spec.in_channels, spec.out_channels), (spec.height, spec.width)
        return ProfileSample(
            channels, size, spec.kernel, spec.stride, spec.padding, spec.dilation, spec.groups, seconds, load
        )

    def sample(self) -> Sample:
        """The sample. Raises GeometryError for impossible sizes, TopologyError for an impossible time."""
        spec = ConvSpec(
            *self.channels, *self.size, self.kernel, self.stride, self.padding, dilation=self.dilation, groups=self.groups
        )
        return Sample(spec, _possible(self.seconds), self.load)


class ProfileMapSample(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """One timed step of another kind: its sizes as in MapSpec, its seconds, and the device's load meanwhile."""

    kind: str
    channels: int
    size: tuple[int, int]
    sources: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    seconds: float
    load: DeviceLoad = IDLE

    @staticmethod
    def of(spec: MapSpec, seconds: float, load: DeviceLoad = IDLE) -> ProfileMapSample:
        size = (spec.height, spec.width)
        return ProfileMapSample(spec.kind, spec.channels, size, spec.sources, spec.kernel, spec.stride, seconds, load)

    def sample(self) -> Sample:
        """The sample. Raises GeometryError for impossible sizes, TopologyError for an impossible time."""
        spec = MapSpec(self.kind, self.channels, *self.size, self.sources, self.kernel, self.stride)
        return Sample(spec, _possible(self.seconds), self.load)


class ProfileDevice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See Device for the units."""

    name: str
    gamma_s_per_mac: dict[str, float]
    address: str = ""
    copy_s_per_byte: float = 0.0
    step_s: float = 0.0
    memory_bytes: int | None = None
    threads: int = 1
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
    read_bytes_per_s: float = 0.0
    samples: tuple[ProfileSample, ...] = ()
    training: dict[str, float] = {}
    idle_watts: float = 0.0
    busy_watts: float = 0.0
    map_s_per_byte: dict[str, float] = {}
    map_samples: tuple[ProfileMapSample, ...] = ()
    tier: str = ""
    far_s_per_byte: dict[str, float] = {}
    multiplies: tuple[Element, ...] | None = None
    vectors: Vectors | None = None

    def with_samples(self, samples: Sequence[Sample]) -> ProfileDevice:
        """The device with these samples and no others."""
        convs = (ProfileSample.of(s.spec, s.seconds, s.load) for s in samples if isinstance(s.spec, ConvSpec))
        maps = (ProfileMapSample.of(s.spec, s.seconds, s.load) for s in samples if isinstance(s.spec, MapSpec))
        return msgspec.structs.replace(self, samples=tuple(convs), map_samples=tuple(maps))


class ProfileLink(msgspec.Struct, Generic[End], frozen=True, forbid_unknown_fields=True):
    """From ``origin`` to ``to``: two ranks, or any rank of one tier and any of another; see Link for the units."""

    origin: End
    to: End
    alpha_s: float
    beta_s_per_element: float
    message_elements: int | None = None
    wake_s: float = 0.0
    joules_per_byte: float = 0.0
    burst_bytes: float = 0.0
    wake_joules: float = 0.0


class Stability(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many of a model's ``layers`` its plan would cut otherwise if rates were at an end of their spread: all rates
    ``together``, and each alone, by its name; None where it was not tried."""

    model: str
    layers: int
    together: int
    changes: dict[str, int | None]


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file's content; the planner and the model use its ``topology()``. ``stability`` is for reports, ``fusions`` for
    prices by kernels (`fogconv.hardware.latency.kernels`)."""

    fogconv_profile: int
    devices: tuple[ProfileDevice, ...]
    links: tuple[ProfileLink[int], ...]
    spreads: dict[str, float] = {}
    note: str = ""
    predictor: str = ""
    stability: Stability | None = None
    tier_links: tuple[ProfileLink[str], ...] = ()
    fusions: dict[str, tuple[tuple[str, str], ...]] = {}

    def rules(self, runtime: str) -> Rules:
        """The pairs of operators that a runtime computes as one kernel, as test cases found; none where none were run."""
        return frozenset(self.fusions.get(runtime, ()))

    @staticmethod
    def of(topology: Topology, spreads: dict[str, float] | None = None, note: str = "") -> Profile:
        """The profile of a topology; links that the topology derives are left out and will be derived again."""
        devices = tuple(
            ProfileDevice(
                device.name,
                dict(device.gamma_s_per_mac),
                device.address,
                device.copy_s_per_byte,
                device.step_s,
                device.memory_bytes,
                device.threads,
                device.joules_per_mac,
                device.message_s,
                device.weight_s_per_byte,
                device.send_s_per_byte,
                device.receive_s_per_byte,
                device.share,
                device.period_s,
                device.tick_s,
                device.machine,
                device.machine_cores,
                training=dict(device.training),
                idle_watts=device.idle_watts,
                busy_watts=device.busy_watts,
                map_s_per_byte=dict(device.map_s_per_byte),
                read_bytes_per_s=device.read_bytes_per_s,
                tier=device.tier,
                far_s_per_byte=dict(device.far_s_per_byte),
                multiplies=device.multiplies,
                vectors=device.vectors,
            )
            for device in topology.devices
        )
        stars = {pair for i in topology.workers for pair in ((0, i), (i, 0))}
        links = tuple(_link_out(i, j, topology.link(i, j)) for i, j in sorted(stars | set(topology.links)))
        return Profile(VERSION, devices, links, spreads or {}, note)

    def topology(self, where: str = "profile", tiers: Mapping[int, str] = {}) -> Topology:
        """``tiers``: by rank, a hostfile's, which count more than the devices' own. Raises TopologyError, ``where`` in its
        message, for missing links and for impossible rates; InputError for an unknown predictor."""
        links: dict[tuple[int, int], Link] = {}
        try:
            devices = tuple(
                Device(
                    device.name,
                    device.gamma_s_per_mac,
                    device.copy_s_per_byte,
                    device.step_s,
                    device.memory_bytes,
                    device.threads,
                    device.address,
                    device.joules_per_mac,
                    device.message_s,
                    device.weight_s_per_byte,
                    device.send_s_per_byte,
                    device.receive_s_per_byte,
                    device.share,
                    device.period_s,
                    device.tick_s,
                    device.machine,
                    device.machine_cores,
                    device.training,
                    # Rates of whole kernels are of what these compute: lanes beyond the last channel, too.
                    computed if "conv" in device.map_s_per_byte else None,
                    device.idle_watts,
                    device.busy_watts,
                    device.map_s_per_byte,
                    self._predicted(device),
                    device.read_bytes_per_s,
                    tiers.get(rank, device.tier),
                    device.far_s_per_byte,
                    device.multiplies,
                    device.vectors,
                )
                for rank, device in enumerate(self.devices)
            )
            for link in self.links:
                pair = (link.origin, link.to)
                if pair in links:
                    raise TopologyError(f"the link {link.origin}→{link.to} is given twice")
                links[pair] = _link_in(link)
            return Topology(devices, linked([device.tier for device in devices], links, self._between()))
        except TopologyError as error:
            raise TopologyError(f"{where}: {error}") from None

    def _between(self) -> dict[tuple[str, str], Link]:
        found: dict[tuple[str, str], Link] = {}
        for link in self.tier_links:
            pair = (check_tier(link.origin), check_tier(link.to))
            if pair in found:
                raise TopologyError(f"the link {link.origin}→{link.to} is given twice")
            found[pair] = _link_in(link)
        return found

    def _predicted(self, device: ProfileDevice) -> Callable[[StepSpec], float] | None:
        """The predictor's seconds of a step, at the device's usual load. The predictor is fitted on first use."""
        if not self.predictor or not device.samples:
            return None
        check_predictor(self.predictor)
        try:
            samples = [sample.sample() for sample in device.samples]
            samples += [sample.sample() for sample in device.map_samples]
        except GeometryError as error:
            raise TopologyError(f"device {device.name}: {error}") from None
        predictor = cache(lambda: fit(self.predictor, samples))
        load = _usual([sample.load for sample in samples])
        return cache(lambda spec: predictor().seconds(spec, load))


def read_profile(path: str | Path) -> Profile:
    """Read a profile. Raises TopologyError for a file that is not a profile of this version or describes no cluster."""
    try:
        data = read_plain(path)
    except OSError as error:
        raise TopologyError(f"profile {path}: can't be read: {error.strerror or error}") from error
    where = f"profile {path}"
    try:
        version = msgspec.json.decode(data, type=_Version).fogconv_profile
        if version != VERSION:
            raise TopologyError(
                f"{where}: it is of version {version}; this fogconv reads version {VERSION}: run `fogconv calibrate` again"
            )
        profile = msgspec.json.decode(data, type=Profile)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TopologyError(f"{where}: it is not a profile: {error}") from error
    profile.topology(where)
    return profile


def write_profile(profile: Profile, path: str | Path) -> None:
    """Write indented JSON. Raises TopologyError if the file can't be written."""
    try:
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=2) + b"\n")
    except OSError as error:
        raise TopologyError(f"profile {path}: can't be written: {error.strerror or error}") from error


def _possible(seconds: float) -> float:
    if not (seconds > 0 and math.isfinite(seconds)):
        raise TopologyError(f"a sample of {seconds} s: it must be positive")
    return seconds


def _usual(loads: Sequence[DeviceLoad]) -> DeviceLoad:
    """The median of each figure; None where the system did not say."""
    columns = [list(column) for column in zip(*map(msgspec.structs.astuple, loads), strict=True)]
    found: list[Any] = [None if None in column else statistics.median(column) for column in columns]
    return DeviceLoad(*found)


class _Version(msgspec.Struct):
    fogconv_profile: int


def _link_in(link: ProfileLink[int] | ProfileLink[str]) -> Link:
    name = f"link {link.origin}→{link.to}"
    if not table.BETA.least <= link.beta_s_per_element <= table.BETA.most:
        least, most = f"{table.BETA.least:g}", f"{table.BETA.most:g}"
        raise TopologyError(
            f"{name}: beta_s_per_element is {link.beta_s_per_element}; it must be positive, from {least} to {most}"
        )
    try:
        return Link(
            link.alpha_s,
            link.beta_s_per_element / BYTES_PER_ELEMENT,
            link.wake_s,
            link.message_elements,
            link.joules_per_byte,
            link.burst_bytes,
            link.wake_joules,
        )
    except TopologyError as error:
        raise TopologyError(f"{name}: {str(error).removeprefix('link: ')}") from None


def _link_out(origin: int, to: int, link: Link) -> ProfileLink[int]:
    return ProfileLink(
        origin,
        to,
        link.latency_s,
        link.s_per_byte * BYTES_PER_ELEMENT,
        link.message_elements,
        link.wake_s,
        link.joules_per_byte,
        link.burst_bytes,
        link.wake_joules,
    )
