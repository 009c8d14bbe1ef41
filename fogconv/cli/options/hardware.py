"""The options that describe devices and links, or have them measured, as a Topology, shared by all commands."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fogconv.cli.options.choices import choice
from fogconv.cli.options.panels import WHERE
from fogconv.cli.options.values import BANDWIDTH, FILE, MEMORY, RATE, TIME, Numbers, number, ratios
from fogconv.errors import InputError
from fogconv.hardware.presets import preset as preset_of
from fogconv.hardware.presets import presets
from fogconv.hardware.profile import read_profile
from fogconv.hardware.topology import Device, Link, Topology
from fogconv.hardware.units import bandwidth_bytes_per_s, rate_flop_per_s, seconds, show_bandwidth, show_rate, show_seconds
from fogconv.ir.geometry import BYTES_PER_ELEMENT
from fogconv.ir.layout import MASTER
from fogconv.values import table

DEFAULT_PRESET = "pi4"
DEFAULT_WORKERS = 4

if TYPE_CHECKING:
    from fogconv.calibration.rate_source import RateSource
    from fogconv.ir.precision.elements import Element

    PresetName = str
else:
    PresetName = choice("PresetName", presets())

PresetOption = Annotated[
    PresetName | None,
    typer.Option(
        "--preset",
        help="Use a board's published figures, by default pi4's; see `fogconv speedup --presets`.",
        rich_help_panel=WHERE,
    ),
]
ProfileOption = Annotated[
    Path | None,
    typer.Option(
        "--profile", parser=FILE, help="Use the rates and links that `fogconv calibrate` measured.", rich_help_panel=WHERE
    ),
]
MeasureOption = Annotated[
    bool,
    typer.Option(
        "--measure", help="Measure devices and links again, even where rates are remembered.", rich_help_panel=WHERE
    ),
]
RateOption = Annotated[
    str | None,
    typer.Option(
        "--rate", parser=RATE, help="Rate of each device, such as 10GFLOP/s; by default the preset's.", rich_help_panel=WHERE
    ),
]
BandwidthOption = Annotated[
    str | None,
    typer.Option(
        "--bandwidth",
        parser=BANDWIDTH,
        help="Bandwidth of each link, such as 100Mbit/s; by default the preset's.",
        rich_help_panel=WHERE,
    ),
]
LatencyOption = Annotated[
    str | None,
    typer.Option(
        "--latency",
        parser=TIME,
        help="Latency of each message, such as 0.5ms; by default the preset's.",
        rich_help_panel=WHERE,
    ),
]
MemoryOption = Annotated[
    int | None,
    typer.Option(
        "--memory",
        parser=MEMORY,
        help="Memory limit of each device in bytes, such as 400M; by default the preset's. With --cluster the workers have "
        "limits of their own, and this is the master's.",
        rich_help_panel=WHERE,
    ),
]
ReadRateOption = Annotated[
    str | None,
    typer.Option(
        "--read-rate",
        parser=BANDWIDTH,
        help="Rate at which each device reads swapped weights from its disk, such as 40MB/s; by default the preset's.",
        rich_help_panel=WHERE,
    ),
]
RanksOption = Annotated[
    int | None,
    typer.Option(
        help="Number of ranks, master included; by default 5, or as many as the profile has.",
        parser=number("count", table.RANKS),
        rich_help_panel=WHERE,
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        "-n",
        parser=number("count", table.SIMULATED_WORKERS),
        help="Number of workers; by default 4, or as many as the profile has.",
        rich_help_panel=WHERE,
    ),
]
SpeedsOption = Annotated[
    Numbers | None,
    typer.Option(
        "--speeds",
        parser=ratios(table.SPEED, "1,1,0.5"),
        help="Speed factors of the ranks from 0 on, such as 1,1,0.5; the last one holds for the rest.",
        rich_help_panel=WHERE,
    ),
]


@dataclass(frozen=True, slots=True)
class Hardware:
    """A topology and its description. ``sources``: where measured rates come from. ``spreads``: by how much repeats of a
    measurement differed, by the names that a profile gives them; empty where nothing is known of that."""

    topology: Topology
    description: str
    sources: tuple[RateSource, ...] = ()
    spreads: Mapping[str, float] = field(default_factory=dict)


def measured_or_described(
    cluster: str | None,
    keys: Path | None,
    insecure: bool,
    measure: bool,
    *,
    profile: Path | None,
    ranks: int | None,
    preset: str | None,
    rate: str | None,
    bandwidth: str | None,
    latency: str | None,
    memory: int | None = None,
    read_rate: str | None = None,
    disks: bool = False,
    elements: Collection[Element] = (),
) -> Hardware:
    """The measured hardware of a cluster, or what the other figures describe. ``elements``: those of the
    network beside fp32. Raises InputError where both are given."""
    if cluster is None:
        if measure:
            raise InputError("--measure needs the cluster that is to be measured: --cluster")
        workers = None if ranks is None else ranks - 1
        return hardware(
            preset=preset,
            profile=profile,
            rate=rate,
            bandwidth=bandwidth,
            latency=latency,
            workers=workers,
            memory=memory,
            read_rate=read_rate,
        )
    if any(figure is not None for figure in (profile, ranks, preset, rate, bandwidth, latency, read_rate)):
        raise InputError(
            "--cluster is measured; leave --profile, --preset, --ranks, --rate, --bandwidth, --latency and --read-rate out"
        )
    from fogconv.calibration.calibration import calibrate_quickly
    from fogconv.calibration.members import priors_of, tiers_of
    from fogconv.cluster.connect import connect

    with connect(cluster, keys=keys, insecure=insecure) as session:
        found = calibrate_quickly(session, refresh=measure, priors=priors_of(cluster), disks=disks, elements=elements)
    spreads = {
        f"gamma rank {source.rank} {kind}": source.spread
        for source in found.sources
        if source.spread is not None
        for kind in source.mac_per_s
    }
    topology = limited(found.topology, memory, ranks=[MASTER]).in_tiers(tiers_of(cluster))
    return Hardware(topology, f"measured: {cluster}", found.sources, spreads)


def hardware(
    *,
    preset: str | None = None,
    profile: Path | None = None,
    rate: str | None = None,
    bandwidth: str | None = None,
    latency: str | None = None,
    wake: str | None = None,
    gamma: float | None = None,
    alpha: float | None = None,
    beta: float | None = None,
    message: int | None = None,
    copy: float | None = None,
    joules_per_mac: float | None = None,
    joules_per_byte: float | None = None,
    workers: int | None = None,
    memory: int | None = None,
    read_rate: str | None = None,
) -> Hardware:
    """A measured profile, or a preset, or plain figures; figures also replace a preset's. Raises InputError.

    With no figure at all it is the default preset. With plain figures, missing latency, copies and energy count as 0.
    """
    _once("γ", gamma=gamma, rate=rate)
    _once("α", alpha=alpha, latency=latency)
    _once("β", beta=beta, bandwidth=bandwidth)
    disk = None if read_rate is None else bandwidth_bytes_per_s(read_rate)
    if profile is not None:
        if preset is not None or any(figure is not None for figure in (gamma, rate, beta, bandwidth, alpha, latency)):
            raise InputError("a profile has its own figures: edit the file to change them")
        measured = _from_profile(profile, workers)
        return replace(measured, topology=limited(measured.topology, memory, disk))
    gamma_s = gamma if rate is None else 2 / rate_flop_per_s(rate)
    alpha_s = alpha if latency is None else seconds(latency)
    s_per_byte = 1 / bandwidth_bytes_per_s(bandwidth) if bandwidth is not None else beta and beta / BYTES_PER_ELEMENT
    if preset is None and (gamma_s is None) != (s_per_byte is None):
        raise InputError("give both a rate (--rate or --gamma) and a bandwidth (--bandwidth or --beta), or a --preset")
    plain = preset is None and gamma_s is not None
    if plain:
        assert gamma_s is not None and s_per_byte is not None
        device, link = Device("device", {"default": gamma_s}), Link(0.0, s_per_byte)
        title = "equal devices"
    else:
        board = preset_of(preset or DEFAULT_PRESET)
        device, link, title = board.device("device"), board.link(), board.title
        if board.estimates:
            title += f"; estimates: {', '.join(board.estimates)}"
        if gamma_s is not None:
            device = replace(device, gamma_s_per_mac={"default": gamma_s})
        if s_per_byte is not None:
            link = replace(link, s_per_byte=s_per_byte)
    if alpha_s is not None:
        link = replace(link, latency_s=alpha_s)
    if wake is not None:
        link = replace(link, wake_s=seconds(wake))
    if message is not None:
        link = replace(link, message_elements=message)
    if joules_per_byte is not None:
        link = replace(link, joules_per_byte=joules_per_byte)
    if copy is not None:
        device = replace(device, copy_s_per_byte=copy / BYTES_PER_ELEMENT)
    if joules_per_mac is not None:
        device = replace(device, joules_per_mac=joules_per_mac)
    count = (workers or DEFAULT_WORKERS) + 1
    topology = Topology((device,) * count, {}, link)
    figures = (
        f"{show_rate(2 / device.gamma())}, {show_bandwidth(link.bandwidth_bytes_per_s)}, "
        f"{show_seconds(link.latency_s)} per message"
    )
    return Hardware(limited(topology, memory, disk), f"{title}. {figures}")


def uneven(topology: Topology, speeds: Numbers | None) -> Topology:
    """The topology with devices so many times as fast."""
    if speeds is None:
        return topology
    factors = speeds.each
    for rank in topology.ranks:
        topology = topology.replace_device(rank, topology.devices[rank].scaled(factors[min(rank, len(factors) - 1)]))
    return topology


def limited(
    topology: Topology,
    memory_bytes: int | None,
    read_bytes_per_s: float | None = None,
    *,
    ranks: Iterable[int] | None = None,
) -> Topology:
    """The topology with this memory limit, and disk, on each of these ranks (all); None leaves what they have."""
    for rank in topology.ranks if ranks is None else ranks:
        device = topology.devices[rank]
        memory = device.memory_bytes if memory_bytes is None else memory_bytes
        rate = device.read_bytes_per_s if read_bytes_per_s is None else read_bytes_per_s
        topology = topology.replace_device(rank, replace(device, memory_bytes=memory, read_bytes_per_s=rate))
    return topology


def _from_profile(path: Path, workers: int | None) -> Hardware:
    read = read_profile(path)
    topology = read.topology(f"profile {path}")
    there = len(topology.workers)
    if workers is not None and workers > there:
        raise InputError(f"profile {path} has {there} workers, not {workers}")
    if workers is not None:
        topology = topology.subset(range(workers + 1))
    if not len(topology.workers):
        raise InputError(f"profile {path} has no worker")
    names = ", ".join(device.name for device in topology.devices[:6])
    return Hardware(topology, f"measured: {names}{', …' if len(topology) > 6 else ''}", spreads=read.spreads)


def _once(symbol: str, **given: object) -> None:
    if all(value is not None for value in given.values()):
        first, second = given
        raise InputError(f"--{first} and --{second} both give {symbol}; leave one out")
