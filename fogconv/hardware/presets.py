"""Presets: common boards, with published figures and their sources (fogconv/hardware/data/presets.json)."""

from __future__ import annotations

from functools import cache
from importlib import resources

import msgspec

from fogconv.errors import InputError, unknown
from fogconv.hardware.topology import Device, Link, Topology


class Preset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One board. ``sources`` name the source of each figure; those in ``estimates`` are not measured. ``watts`` is the
    board's power under load, ``idle_watts`` that of the board that waits, ``port_watts`` that of its busy network port.
    """

    title: str
    gamma_s_per_mac: dict[str, float]
    threads: int
    memory_bytes: int
    bandwidth_bytes_per_s: float
    latency_s: float
    copy_s_per_byte: float
    step_s: float
    read_bytes_per_s: float
    watts: float
    idle_watts: float
    port_watts: float
    sources: dict[str, str]
    estimates: tuple[str, ...]

    def device(self, name: str) -> Device:
        gamma = self.gamma_s_per_mac
        return Device(
            name,
            gamma,
            self.copy_s_per_byte,
            self.step_s,
            self.memory_bytes,
            self.threads,
            joules_per_mac=self.watts * gamma["default"],
            read_bytes_per_s=self.read_bytes_per_s,
            idle_watts=self.idle_watts,
            busy_watts=self.watts,
        )

    def link(self) -> Link:
        """A link between two of this board. Both ends use power while a byte is sent."""
        s_per_byte = 1 / self.bandwidth_bytes_per_s
        return Link(self.latency_s, s_per_byte, joules_per_byte=2 * self.port_watts * s_per_byte)

    def topology(self, workers: int) -> Topology:
        """A master and so many workers, all of this board, on a switch."""
        devices = tuple(self.device("master" if rank == 0 else f"worker {rank}") for rank in range(workers + 1))
        return Topology(devices, {}, self.link())


class _File(msgspec.Struct):
    note: str
    presets: dict[str, Preset]


@cache
def presets() -> dict[str, Preset]:
    """All presets by name."""
    data = resources.files("fogconv.hardware").joinpath("data/presets.json").read_bytes()
    return msgspec.json.decode(data, type=_File).presets


def preset(name: str) -> Preset:
    """Raises InputError, with near names, for an unknown one."""
    found = presets().get(name)
    if found is None:
        raise InputError(unknown("preset", name, presets()))
    return found
