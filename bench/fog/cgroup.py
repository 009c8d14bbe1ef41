"""Control groups, version 1 and 2: a node's share of a core, its memory limit, and its usage.

    share of a core   quota per period
    1.0 and more      share · 10 ms  per 10 ms
    0.1               1 ms           per 10 ms       the kernel grants no quota under 1 ms, so small
    0.05              1 ms           per 20 ms       shares get a longer period

A long period lets a node that paused between inferences exceed its share, so it is as short as the kernel allows.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fogconv.errors import ClusterError, DependencyError, InputError

LEAST_QUOTA_US = 1000
WEIGHT_V1 = 16384
"""Other groups have 1024: so the nodes get all of their quota, whatever else runs."""
WEIGHT_V2 = 1600
"""The same factor of 16; version 2's usual weight is 100."""


def quota_and_period_us(share: float) -> tuple[int, int]:
    """Microseconds of CPU time per period for a share of one core (over 1 for several). Raises InputError."""
    if not 0 < share <= 1024 or share < LEAST_QUOTA_US / 1_000_000:
        raise InputError(f"a CPU share of {share} is not possible; give cores, from 0.001 on (0.1 is a tenth of one)")
    if share <= 0.5:
        return LEAST_QUOTA_US, round(LEAST_QUOTA_US / share)
    return round(share * 10_000), 10_000


@dataclass(frozen=True, slots=True)
class Usage:
    """A group's usage so far: CPU seconds, seconds in which it waited for its quota, peak bytes of memory."""

    cpu_s: float
    throttled_s: float
    peak_bytes: int


class Cgroup(Protocol):
    """One group. ``members`` are the files into which a process writes its pid to join."""

    @property
    def members(self) -> list[Path]: ...
    def create(self) -> None: ...
    def set_cpu(self, share: float | None) -> None: ...
    def set_memory(self, limit_bytes: int) -> None: ...
    def usage(self) -> Usage: ...
    def remove(self) -> None: ...


@dataclass(frozen=True, slots=True)
class CgroupV1:
    """A group of the same name under each of the controllers' own mounts."""

    name: str
    cpu: Path
    cpuacct: Path
    memory: Path

    @property
    def _groups(self) -> list[Path]:
        return list(dict.fromkeys(mount / self.name for mount in (self.cpu, self.cpuacct, self.memory)))

    @property
    def members(self) -> list[Path]:
        return [group / "cgroup.procs" for group in self._groups]

    def create(self) -> None:
        for group in self._groups:
            group.mkdir(parents=True, exist_ok=True)
        _write(self.cpu / self.name / "cpu.shares", WEIGHT_V1)

    def set_cpu(self, share: float | None) -> None:
        group = self.cpu / self.name
        # Quota and period can't be set together, and each must fit the other at all times: lift the quota first.
        _write(group / "cpu.cfs_quota_us", -1)
        if share is not None:
            quota, period = quota_and_period_us(share)
            _write(group / "cpu.cfs_period_us", period)
            _write(group / "cpu.cfs_quota_us", quota)

    def set_memory(self, limit_bytes: int) -> None:
        _write(self.memory / self.name / "memory.limit_in_bytes", limit_bytes)

    def usage(self) -> Usage:
        stat = _table(self.cpu / self.name / "cpu.stat")
        return Usage(
            cpu_s=int((self.cpuacct / self.name / "cpuacct.usage").read_text()) / 1e9,
            throttled_s=stat["throttled_time"] / 1e9,
            peak_bytes=int((self.memory / self.name / "memory.max_usage_in_bytes").read_text()),
        )

    def remove(self) -> None:
        _remove(self._groups)


@dataclass(frozen=True, slots=True)
class CgroupV2:
    """A group of the unified hierarchy at ``mount``, which must offer the cpu and memory controllers."""

    name: str
    mount: Path

    @property
    def _group(self) -> Path:
        return self.mount / self.name

    @property
    def members(self) -> list[Path]:
        return [self._group / "cgroup.procs"]

    def create(self) -> None:
        _write(self.mount / "cgroup.subtree_control", "+cpu +memory")
        self._group.mkdir(exist_ok=True)
        _write(self._group / "cpu.weight", WEIGHT_V2)

    def set_cpu(self, share: float | None) -> None:
        quota, period = ("max", 100_000) if share is None else quota_and_period_us(share)
        _write(self._group / "cpu.max", f"{quota} {period}")

    def set_memory(self, limit_bytes: int) -> None:
        _write(self._group / "memory.max", limit_bytes)

    def usage(self) -> Usage:
        stat = _table(self._group / "cpu.stat")
        peak = self._group / "memory.peak"  # since Linux 5.19
        return Usage(
            cpu_s=stat["usage_usec"] / 1e6,
            throttled_s=stat.get("throttled_usec", 0) / 1e6,
            peak_bytes=int((peak if peak.exists() else self._group / "memory.current").read_text()),
        )

    def remove(self) -> None:
        _remove([self._group])


def find_cgroup(name: str, mounts: str | None = None) -> Cgroup:
    """A group of this name in whichever hierarchy has the cpu and memory controllers.

    ``mounts`` is the text of /proc/mounts. Raises DependencyError where there is none.
    """
    v1: dict[str, Path] = {}
    for line in (mounts if mounts is not None else Path("/proc/mounts").read_text()).splitlines():
        _, where, kind, options = line.split()[:4]
        if kind == "cgroup2":
            offered = Path(where, "cgroup.controllers")
            if offered.exists() and {"cpu", "memory"} <= set(offered.read_text().split()):
                return CgroupV2(name, Path(where))
        elif kind == "cgroup":
            v1.update({option: Path(where) for option in options.split(",")})
    if missing := {"cpu", "cpuacct", "memory"} - v1.keys():
        raise DependencyError(
            f"no cgroup controller for {', '.join(sorted(missing))} is mounted: CPU and memory can't be limited here"
        )
    return CgroupV1(name, v1["cpu"], v1["cpuacct"], v1["memory"])


def _write(path: Path, value: int | str) -> None:
    try:
        path.write_text(str(value))
    except OSError as error:
        raise ClusterError(f"can't write {value} into {path}: {error.strerror}") from error


def _table(path: Path) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split() for line in path.read_text().splitlines())}


def _remove(groups: list[Path], patience_s: float = 5.0) -> None:
    """End all processes in the groups (only processes started there can be in them), then remove the groups."""
    deadline = time.monotonic() + patience_s
    for group in groups:
        while group.exists():
            try:
                for pid in (group / "cgroup.procs").read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
            except (ProcessLookupError, FileNotFoundError):
                pass
            try:
                group.rmdir()
            except OSError as error:  # busy until the kernel has removed the processes
                if time.monotonic() > deadline:
                    raise ClusterError(f"can't remove the control group {group}: {error.strerror}") from error
                time.sleep(0.02)
