"""Halves: numbers of 16 bits, fp16 or bf16, from fp32 and back.

Widening is exact. Narrowing rounds to the nearest, halves to even.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.ir.precision.elements import Half

LARGEST: dict[Half, float] = {"fp16": 65504.0, "bf16": (2 - 2.0**-7) * 2.0**127}
"""The largest finite number."""


def rounded(values: NDArray[np.float32], half: Half) -> NDArray[Any]:
    """The nearest numbers of 16 bits, as float16, or as uint16 for bf16."""
    if half == "fp16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    nearest = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), (bits | np.uint32(0x400000)) >> np.uint32(16), nearest).astype(np.uint16)


def floats(halves: NDArray[Any]) -> NDArray[np.float32]:
    """The same numbers in fp32."""
    if halves.dtype == np.uint16:
        return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return halves.astype(np.float32)
