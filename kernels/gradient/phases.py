"""Phases: which taps of a strided convolution read which rows of its input.

The rows y = first + stride·Y are read only by the taps i with (y + padding − i·dilation) divisible by the stride, each
for the output row Y + distance. So the gradient of the input is a plain convolution for each phase, without the zeros
between the gradient's rows that a transposed convolution inserts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fogconv.ir.geometry import ConvSpec


class Phase(NamedTuple):
    """``size`` input rows (or columns): ``first``, ``first`` + stride, …; ``taps`` are (tap number, distance)."""

    first: int
    size: int
    taps: tuple[tuple[int, int], ...]


def phases(spec: ConvSpec, axis: int) -> list[Phase]:
    """The phases of an axis (0 rows, 1 columns) that meet any tap; the others' gradient is zero."""
    stride, dilation, before = spec.stride[axis], spec.dilation[axis], spec.padding[2 * axis]
    size = (spec.height, spec.width)[axis]
    found = []
    for first in range(min(stride, size)):
        taps = []
        for tap in range(spec.kernel[axis]):
            distance, rest = divmod(first + before - tap * dilation, stride)
            if rest == 0:
                taps.append((tap, distance))
        if taps:
            found.append(Phase(first, -(-(size - first) // stride), tuple(taps)))
    return found


def overhang(of: Sequence[Phase], size: int) -> tuple[int, int]:
    """How many rows the taps reach before and beyond an output of ``size`` rows."""
    low = min((distance for phase in of for _, distance in phase.taps), default=0)
    high = max((phase.size - 1 + distance for phase in of for _, distance in phase.taps), default=0)
    return max(0, -low), max(0, high - size + 1)
