"""The system's data on this device and process: memory, and temperature and throttling where available."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import psutil

_ZONES = Path("/sys/class/thermal")
_PI_THROTTLED = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")
_PI_THROTTLED_NOW = 0b0111
"""Raspberry Pi firmware: undervoltage, frequency capped, throttled, as of now."""


def temperature_c() -> float:
    """The hottest thermal zone, in °C; NaN where there is none."""
    readings = []
    for zone in _ZONES.glob("thermal_zone*/temp"):
        try:
            readings.append(int(zone.read_text()) / 1000.0)
        except (OSError, ValueError):
            continue
    return max(readings, default=math.nan)


def throttled() -> bool:
    """Whether a Raspberry Pi's firmware slows it down now; False on other systems."""
    try:
        return bool(int(_PI_THROTTLED.read_text().strip(), 16) & _PI_THROTTLED_NOW)
    except (OSError, ValueError):
        return False


def process_bytes() -> int:
    """The memory of this process in bytes, freed or not."""
    return int(psutil.Process().memory_info().rss)


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
