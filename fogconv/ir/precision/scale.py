"""Scale: how the elements of one map stand for real numbers, a property of each tensor and of each buffer with a part of
it."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from fogconv.ir.precision.elements import ELEMENT_BYTES, HALVES, Element

LEAST_SCALE, MOST_SCALE = 1e-30, 1e30


@dataclass(frozen=True, slots=True)
class Precision:
    """``scale`` (a value of fp32) and ``zero`` (0 to 255) count for uint8 only. Raises ValueError for others."""

    element: Element = "fp32"
    scale: float = 1.0
    zero: int = 0

    def __post_init__(self) -> None:
        # False of a NaN.
        if not LEAST_SCALE <= self.scale <= MOST_SCALE or not 0 <= self.zero <= 255:
            raise ValueError(f"a scale of {self.scale} and a zero of {self.zero} describe no 8-bit map")

    @property
    def bytes(self) -> int:
        """Of one element."""
        return ELEMENT_BYTES[self.element]

    @property
    def quantized(self) -> bool:
        return self.element == "uint8"

    @property
    def is_half(self) -> bool:
        """Whether it has 16 bits."""
        return self.element in HALVES

    @property
    def sums(self) -> Precision:
        """Of summands of a conv that reads such maps."""
        return SUMS if self.quantized else FP32

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest real number that it has."""
        return self.scale * -self.zero, self.scale * (255 - self.zero)


FP32 = Precision()
SUMS = Precision("int32")

LEAST_STEP = 1e-12
"""The scale of a map that is always 0."""


def uint8(low: float, high: float) -> Precision:
    """The 8-bit precision whose steps cover the range from ``low`` to ``high``, and 0 exactly. Raises ValueError for a range
    that is not finite."""
    low, high = min(low, 0.0), max(high, 0.0)
    span = high - low
    if not math.isfinite(span):
        raise ValueError(f"the range {low:g} to {high:g} is not finite")
    scale = in_fp32(max(span / 255, LEAST_STEP))
    return Precision("uint8", scale, min(255, max(0, round(-low / scale))))


def in_fp32(number: float) -> float:
    """The nearest value of fp32."""
    return float(struct.unpack("f", struct.pack("f", number))[0])
