"""Samples: what latency predictors learn from: one step's time on one device, and what else the device did meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from fogconv.ir.geometry import StepSpec

Share = Annotated[float, Meta(ge=0, le=1)]
Celsius = Annotated[float, Meta(ge=-300, le=10_000)]


class DeviceLoad(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a device does besides fogconv's own work, and what slows it down. None: the system does not say.

    ``cpu``: the share of this process's cores that other processes keep busy. ``queue``: tasks that run or wait to run,
    per core. ``memory``: the share in use. ``frequency``: of the processor's highest. ``gpu``: the share of time in which
    the busiest NVIDIA GPU computes; with its memory in use and its temperature.
    """

    cpu: Share = 0.0
    queue: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    memory: Share = 0.0
    temperature_c: Celsius | None = None
    frequency: Share | None = None
    gpu: Share | None = None
    gpu_memory: Share | None = None
    gpu_temperature_c: Celsius | None = None


IDLE = DeviceLoad()


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: the mean seconds of a step that computes ``spec``, under ``load``."""

    spec: StepSpec
    seconds: float
    load: DeviceLoad = IDLE
