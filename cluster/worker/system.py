"""The system's data on this device and process: memory; temperature, frequency, throttling and GPUs where available."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

_ZONES = Path("/sys/class/thermal")
_STAT = Path("/proc/stat")
_PI_THROTTLED = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")
_PI_THROTTLED_NOW = 0b0111
"""Raspberry Pi firmware: undervoltage, frequency capped, throttled, as of now."""


def temperature_c() -> float | None:
    """The hottest thermal zone, in °C; None where there is none."""
    readings = []
    try:
        zones = list(_ZONES.glob("thermal_zone*/temp"))
    except OSError:  # no descriptor is left
        return None
    for zone in zones:
        try:
            readings.append(int(zone.read_text()) / 1000.0)
        except (OSError, ValueError):
            continue
    return max(readings, default=None)


def frequency() -> float | None:
    """The processor's frequency as a share of its highest, on average over its cores; None where there is no telling."""
    try:
        found = psutil.cpu_freq()
    except (OSError, RuntimeError, NotImplementedError):
        return None
    if found is None or found.max <= 0:
        return None
    return float(min(1.0, max(0.0, found.current / found.max)))


def memory_share() -> float:
    """The share of the machine's memory that is in use."""
    try:
        return float(min(1.0, max(0.0, psutil.virtual_memory().percent / 100)))
    except (OSError, RuntimeError):
        return 0.0


def running_tasks() -> int:
    """Tasks that run or wait for a core, of all processes; 0 where the system does not count them."""
    try:
        lines = _STAT.read_text().splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("procs_running ")), 0)
    except (OSError, ValueError, IndexError):
        return 0


@dataclass(frozen=True, slots=True)
class GpuState:
    """Of all NVIDIA GPUs the most of each: the share of time in which one computes, of memory in use, °C."""

    busy: float
    memory: float
    temperature_c: float


def gpu_state() -> GpuState | None:
    """None without an NVIDIA GPU, its driver, or NVIDIA's pynvml (the package nvidia-ml-py, in fogconv's extra "gpu")."""
    pynvml, handles = _gpus()
    if not handles:
        return None
    try:
        busy = max(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu for handle in handles)
        memories = [pynvml.nvmlDeviceGetMemoryInfo(handle) for handle in handles]
        heat = max(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU) for handle in handles)
    except pynvml.NVMLError:
        return None
    return GpuState(min(1.0, busy / 100), max(memory.used / memory.total for memory in memories), float(heat))


@cache
def _gpus() -> tuple[Any, tuple[Any, ...]]:
    try:
        import pynvml
    except ImportError:
        return None, ()
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        return pynvml, tuple(pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(count))
    except pynvml.NVMLError:  # no driver, or no GPU
        return pynvml, ()


def throttled() -> bool:
    """Whether a Raspberry Pi's firmware slows it down now; False on other systems."""
    try:
        return bool(int(_PI_THROTTLED.read_text().strip(), 16) & _PI_THROTTLED_NOW)
    except (OSError, ValueError):
        return False


def process_bytes() -> int:
    """The memory of this process in bytes, freed or not. Where there is a /proc, only the first call needs a
    descriptor."""
    statm = _statm(os.getpid())
    if statm is None:
        return int(psutil.Process().memory_info().rss)
    return int(os.pread(statm, 256, 0).split()[1]) * os.sysconf("SC_PAGE_SIZE")


def has_room(limit_bytes: int, nbytes: int) -> bool:
    """Whether this process may take so many bytes more under its memory limit (0: none)."""
    if not limit_bytes or process_bytes() + nbytes <= limit_bytes:
        return True
    trim()  # it may hold memory that is free
    return process_bytes() + nbytes <= limit_bytes


@cache
def _statm(pid: int) -> int | None:
    """A descriptor of /proc/self/statm, which stays open: strangers may use up all others. A fork needs one of its own."""
    try:
        return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def machine_bytes() -> int:
    """The memory of this machine, which no program can exceed."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@cache
def _malloc_trim() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # musl has none
        return None


def trim() -> None:
    """Return free memory to the system, where the C library can. Takes milliseconds; not for the middle of an
    inference."""
    call = _malloc_trim()
    if call is not None:
        call(0)
