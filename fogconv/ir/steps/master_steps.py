"""What only the master does: it takes inputs, returns outputs, and runs host layers."""

from __future__ import annotations

from fogconv.ir.geometry import MapSpec, Region
from fogconv.ir.steps.step import Step


class Input(Step, frozen=True, tag=True):
    """Master: take the ``index``-th input of the run (NCHW) into a buffer."""

    index: int
    target: int
    region: Region

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("transpose", self.region, batch)


class Output(Step, frozen=True, tag=True):
    """Master: return a buffer as the ``index``-th output of the run (NCHW)."""

    index: int
    source: int
    region: Region

    def work(self, batch: int) -> MapSpec:
        return MapSpec.of("transpose", self.region, batch)


class HostOutput(Step, frozen=True, tag=True):
    """Master: return what host layers kept as ``value`` as the ``index``-th output of the run."""

    index: int
    value: str | int


class Host(Step, frozen=True, tag=True):
    """Master: run the graph's ``layer``-th layer in torch."""

    sources: tuple[int, ...]
    source_regions: tuple[Region, ...]
    targets: tuple[int, ...]
    target_regions: tuple[Region, ...]
