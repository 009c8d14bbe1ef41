"""Step: what all steps have; Buffer: what most of them read and write."""

from __future__ import annotations

import msgspec

from fogconv.ir.geometry import Region, StepSpec
from fogconv.ir.precision.scale import FP32, Precision


class Buffer(msgspec.Struct, frozen=True):
    """A local array for ``region`` of a tensor, inside a margin (top, bottom, left, right) of zeros: in 8 bits, of the
    precision's ``zero``, which are zeros too."""

    tensor: str
    region: Region
    margin: tuple[int, int, int, int] = (0, 0, 0, 0)
    precision: Precision = FP32


class Step(msgspec.Struct, frozen=True, tag=True):
    """``layer`` is an index into ``Program.layers``; times are reported by it."""

    layer: int

    def work(self, batch: int) -> StepSpec | None:
        """What it computes, at its size; None for steps that do no work on maps, or whose cost is another."""
        return None
