"""Precision: how the elements of a map are kept, a property of each tensor and of each buffer that holds a part of one.

    fp32    the real number itself
    uint8   real = scale · (q − zero), one scale and one zero for the whole map
    int32   the sums of a conv of 8-bit maps before they are rescaled: summands of one output on several ranks, exact

Weights of 8-bit convs are int8, −127 to 127, with one scale per output channel; their biases are int32, in the unit
(the input's scale · the weight's) of the sums.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Element = Literal["fp32", "uint8", "int32"]

ELEMENT_BYTES: dict[Element, int] = {"fp32": 4, "uint8": 1, "int32": 4}

WeightType = Literal["float32", "int8", "int32", "uint8"]
"""What a weight consists of, by NumPy's name."""

WEIGHT_BYTES: dict[WeightType, int] = {"float32": 4, "int8": 1, "int32": 4, "uint8": 1}


def weight_type(array: NDArray[Any]) -> WeightType:
    """Of an array. Raises StopIteration for one that is no weight."""
    found = array.dtype.name
    return next(name for name in WEIGHT_BYTES if name == found)


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
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest real number that it has."""
        return self.scale * -self.zero, self.scale * (255 - self.zero)


FP32 = Precision()
SUMS = Precision("int32")


def uint8(low: float, high: float) -> Precision:
    """The 8-bit precision whose steps cover the range from ``low`` to ``high``, and 0 exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    span = high - low
    if not math.isfinite(span):
        raise ValueError(f"the range {low:g} to {high:g} is not finite")
    scale = float(np.float32(max(span / 255, 1e-12)))
    return Precision("uint8", scale, min(255, max(0, round(-low / scale))))
