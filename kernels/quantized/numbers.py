"""How 8-bit numbers stand for real ones, and how int32 sums become bytes again.

    real     = scale · (q − zero)                                 uint8 maps, one scale and one zero per tensor
    sum      = Σ (q_x − zero_x) · q_w  (+ bias)                   int32, exact; int8 weights in −127…127
    q_y      = clamp(rne(float32(sum) · multiplier) + zero, low, high)

rne rounds halves to even. No step of the float part is fused or reordered, so that every instruction set gives the same
bits. A NaN becomes ``low``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fogconv.errors import KernelError

Bytes = NDArray[np.uint8]
Weights = NDArray[np.int8]
Sums = NDArray[np.int32]
Floats = NDArray[np.float32]

LOWEST, HIGHEST = 0, 255


@dataclass(frozen=True, slots=True)
class Scale:
    """One tensor's: real = scale · (q − zero). Raises KernelError for a scale that is not above zero, and for a zero that is
    no byte."""

    scale: float
    zero: int

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale) and np.float32(self.scale) > 0):
            raise KernelError(f"quantisation: the scale is {self.scale}; it must be above 0 and finite in float32")
        if not LOWEST <= self.zero <= HIGHEST:
            raise KernelError(f"quantisation: the zero is {self.zero}; it must be in {LOWEST}…{HIGHEST}")


@dataclass(frozen=True, slots=True)
class Target:
    """The bytes that results become: their zero, and the bounds that carry an activation such as ReLU."""

    zero: int
    low: int = LOWEST
    high: int = HIGHEST

    def __post_init__(self) -> None:
        if not (LOWEST <= self.low <= self.high <= HIGHEST and LOWEST <= self.zero <= HIGHEST):
            raise KernelError(f"quantisation: {self} is not within {LOWEST}…{HIGHEST}, or its bounds are swapped")


def multiplier(*scales: float, over: float = 1.0) -> np.float32:
    """The product of some scales, over another: in float64, rounded once to float32. Raises KernelError where that is not
    finite."""
    return np.float32(_finite(np.prod(np.array(scales, np.float64)) / np.float64(over))[()])


def multipliers(scale_x: float, scale_w: Sequence[float] | NDArray[np.floating], over: float = 1.0) -> Floats:
    """One per output channel: scale_x · scale_w[o] / over, likewise."""
    return _finite(np.float64(scale_x) * np.asarray(scale_w, np.float64) / np.float64(over))


def _finite(values: NDArray[np.float64] | np.float64) -> Floats:
    with np.errstate(over="ignore"):
        rounded = np.asarray(values).astype(np.float32)
    if not np.isfinite(rounded).all():
        raise KernelError(f"quantisation: a ratio of scales is {np.max(np.abs(values))}; float32 has no such number")
    return rounded
