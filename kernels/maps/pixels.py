"""Pixels: a picture's payload in bytes, exact where the picture had 8 bits.

A normalised value is (byte / 255 − mean) / std of its channel, computed in float32 in this order, as
`fogconv.zoo.preprocessing.Preprocessing` does. So a channel has 256 values at most; `tables` lists them. A payload of other
values is not coded: its sender sends it as it is, and the receiver knows by the size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fogconv.errors import KernelError
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import BLOCK

LEVELS = 256


class PixelTables:
    """The values of each channel's bytes. Channels are at most 16: a payload then has a pixel's channels together. Raises
    KernelError for other figures."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if not 0 < len(mean) == len(std) <= BLOCK or not np.isfinite([*mean, *std]).all() or 0.0 in std:
            raise KernelError(f"pixels have a mean and a std other than 0 of up to {BLOCK} channels, not {mean} and {std}")
        self.channels = len(mean)
        means, deviations = (np.asarray(each, np.float32).reshape(-1, 1) for each in (mean, std))
        levels = np.arange(LEVELS, dtype=np.float32) / np.float32(255)
        self._values = np.ascontiguousarray((levels - means) / deviations, np.float32).ravel()
        self._first = (np.arange(self.channels) * LEVELS).astype(np.intp)
        self._scale = (255 * deviations).ravel()
        self._shift = (255 * means).ravel()

    def encode(self, payload: Array) -> memoryview | None:
        """One byte per element of a flat float32 payload; None where a value is none of the tables'."""
        values = payload.reshape(-1, self.channels)
        with np.errstate(invalid="ignore", over="ignore"):
            levels = np.rint(values * self._scale + self._shift)
            coded = np.clip(np.nan_to_num(levels), 0, LEVELS - 1).astype(np.uint8)
        if not np.array_equal(self._spread(coded), values):
            return None
        return memoryview(coded.reshape(-1))

    def decode(self, payload: NDArray[np.uint8]) -> Array:
        """The float32 values of the bytes of whole pixels, flat."""
        return self._spread(payload.reshape(-1, self.channels)).reshape(-1)

    def _spread(self, coded: NDArray[np.uint8]) -> Array:
        return self._values.take(coded + self._first)
