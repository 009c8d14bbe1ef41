"""Random blocked maps for the tests: parts of larger buffers, with margins, neighbours and odd channel counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from fogconv.ir.geometry import BLOCK
from fogconv.kernels.maps.blocked import Blocked, Margin
from fogconv.kernels.maps.pack import pack, unpack

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Surroundings:
    """What lies around a map: margins, blocks before and after it in its buffer, rows and columns around it."""

    margin: Margin = Margin()
    blocks_before: int = 0
    blocks_after: int = 0
    extra_rows: int = 0
    extra_columns: int = 0


surroundings = st.builds(
    Surroundings,
    st.builds(Margin, *[st.integers(0, 2)] * 4),
    st.integers(0, 1),
    st.integers(0, 1),
    st.integers(0, 2),
    st.integers(0, 2),
)


def random(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def place(x: Array, around: Surroundings, rng: np.random.Generator) -> Blocked:
    """The NCHW values as a view into a larger buffer full of other numbers."""
    batch, channels, height, width = x.shape
    inside = -(-channels // BLOCK)
    first, rows, columns = around.blocks_before * BLOCK, around.extra_rows, around.extra_columns
    whole = Blocked.empty(
        batch,
        (around.blocks_before + inside + around.blocks_after) * BLOCK,
        height + 2 * rows,
        width + 2 * columns,
        around.margin,
    )
    whole.interior[...] = rng.standard_normal(whole.interior.shape)
    view = whole.view(slice(first, first + channels), slice(rows, rows + height), slice(columns, columns + width))
    part = view.interior
    for channel in range(channels):
        part[:, channel // BLOCK, :, :, channel % BLOCK] = x[:, channel]
    return view


class Untouched:
    """Remembers everything in a map's buffer, to tell afterwards what was written beyond the map."""

    def __init__(self, view: Blocked) -> None:
        base = view.data if view.data.base is None else view.data.base
        self._buffer = np.asarray(base)
        self._before = self._buffer.copy()
        self._view = view

    def outside_is_unchanged(self) -> bool:
        after = self._buffer.copy()
        part = self._view.interior
        for channel in range(self._view.channels):
            part[:, channel // BLOCK, :, :, channel % BLOCK] = 0
        blanked = self._buffer.copy()
        self._buffer[...] = self._before
        for channel in range(self._view.channels):
            part[:, channel // BLOCK, :, :, channel % BLOCK] = 0
        same = bool(np.array_equal(blanked.view(np.uint8), self._buffer.view(np.uint8)))
        self._buffer[...] = after
        return same


__all__ = ["Array", "Surroundings", "Untouched", "pack", "place", "random", "surroundings", "unpack"]
