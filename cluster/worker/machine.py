"""Machine: the computer that this process runs on, the part of it that the process may use, and what else runs there.

identity   equal for processes that share cores: the running system and, where one sets a quota, the control group
device     equal for the same computer after a restart: its name, its id, its processor
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import psutil

from fogconv.cluster.protocol.messages import Machine
from fogconv.cluster.worker.system import frequency, gpu_state, memory_share, running_tasks, temperature_c
from fogconv.hardware.latency.samples import DeviceLoad

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_MACHINE = Path("/etc/machine-id")
_CPUS = Path("/proc/cpuinfo")


@cache
def machine() -> Machine:
    """Of this process, as it began: affinity and quota are read once."""
    quota, group = cpu_quota()
    boot = _text(_BOOT) or platform.node()
    return Machine(
        _digest(boot, group),
        _digest(platform.node(), _text(_MACHINE), processor()),
        tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else tuple(range(os.cpu_count() or 1)),
        quota,
    )


def cpu_quota(groups: Path = _CGROUPS, own: Path = _OWN_GROUPS) -> tuple[float, str]:
    """The cores that this process's control groups (version 1 or 2) grant it, and a name for the group whose quota is the
    least. 0 and an empty name where none sets one."""
    found = [(cores, folder) for folder in _folders(groups, own) if (cores := _cores(folder)) > 0]
    if not found:
        return 0.0, ""
    cores, folder = min(found)
    # The path may be "/" in every container; the folder's number is not.
    return cores, f"{folder.stat().st_dev}:{folder.stat().st_ino}"


def _folders(groups: Path, own: Path) -> list[Path]:
    """The control groups of this process that may set a quota, with all those above them."""
    found: list[Path] = []
    for line in _text(own).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            root = groups
        elif "cpu" in controllers.split(","):
            root = groups / controllers if (groups / controllers).is_dir() else groups / "cpu"
        else:
            continue
        inner = root / path.lstrip("/")
        found += [folder for folder in (inner, *inner.parents) if folder.is_relative_to(root)]
        found.append(root)
    return found


def _cores(folder: Path) -> float:
    """The quota that is set in one control group's folder, in cores; 0 for none."""
    both = _text(folder / "cpu.max").split() or [
        _text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
    ]
    try:
        quota, period = (float(word) for word in both)
    except ValueError:  # "max", or no such file
        return 0.0
    return quota / period if quota > 0 and period > 0 and math.isfinite(quota / period) else 0.0


COUNTED = 0.5
"""Where the system accounts for less than this share of the time, as some containers do, its idle time is not believed."""


class OtherWork:
    """How much of this process's cores others used since this object was made."""

    def __init__(self) -> None:
        self._begin = time.monotonic(), time.process_time(), _busy_and_idle_s()

    def cores(self) -> float:
        """In cores, on average: every process but this one, and what a hypervisor gave to other guests."""
        wall, own, then = self._begin
        now, passed = _busy_and_idle_s(), time.monotonic() - wall
        if passed <= 0:
            return 0.0
        busy, idle = now[0] - then[0], now[1] - then[1]
        whole = passed * len(machine().cpus)
        if busy + idle > COUNTED * whole:
            # What is not idle is busy. Where no core is ever idle this is exact. Busy time is counted in ticks of 10 ms, too
            # coarse to tell a twentieth of a core, which a process gets beside twenty others, from a tenth.
            busy = whole - idle
        return max(0.0, (busy - (time.process_time() - own)) / passed)


class LoadMeter:
    """What this device did besides this process's work since it was asked last."""

    LEAST_S = 0.03
    """The system counts in steps of 10 ms: when asked again sooner, the last answer stands."""
    LOOK_S = 0.02

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._others = OtherWork()
        self._asked = self._looked = clock()
        self._cpu = 0.0
        self._tasks = [running_tasks()]

    def look(self) -> None:
        """See what runs just now. The more often between two calls of ``load``, the better it knows the queue."""
        now = self._clock()
        if now - self._looked >= self.LOOK_S:
            self._looked = now
            self._tasks.append(running_tasks())

    def load(self) -> DeviceLoad:
        cores = len(machine().cpus)
        if self._clock() - self._asked >= self.LEAST_S:
            self._cpu = min(1.0, self._others.cores() / cores)
            self._others, self._asked = OtherWork(), self._clock()
        tasks = [*self._tasks, running_tasks()]
        self._tasks, self._looked = tasks[-1:], self._clock()
        gpu = gpu_state()
        return DeviceLoad(
            self._cpu,
            sum(tasks) / len(tasks) / cores,
            memory_share(),
            temperature_c(),
            frequency(),
            None if gpu is None else gpu.busy,
            None if gpu is None else gpu.memory,
            None if gpu is None else gpu.temperature_c,
        )


def _busy_and_idle_s() -> tuple[float, float]:
    """Of the cores that this process may use; zeros while no descriptor is left to read them."""
    try:
        cores = psutil.cpu_times(percpu=True)
    except OSError:
        return 0.0, 0.0
    mine = [cores[number] for number in machine().cpus if number < len(cores)] or cores
    # User time holds the time of guests already; idle and iowait are no work.
    kinds = (("user", "nice", "system", "irq", "softirq", "steal"), ("idle", "iowait"))
    busy, idle = (float(sum(getattr(times, kind, 0.0) for times in mine for kind in group)) for group in kinds)
    return busy, idle


def processor() -> str:
    """The name of the processor, as the system gives it."""
    lines = (line.partition(":") for line in _text(_CPUS).splitlines())
    named = (value.strip() for key, _, value in lines if key.strip() in ("model name", "Model", "CPU part"))
    return " ".join(dict.fromkeys(named)) or platform.processor()


def _digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:32]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
