"""The blocked activation layout: NCHWc16 inside a margin of zeros.

data    (N, ⌈C/16⌉, top+H+bottom, left+W+right, 16) float32, the last axis contiguous and 64-byte aligned; or uint8 (see
        `fogconv.kernels.quantized.numbers`), aligned to 16 bytes, with the byte that stands for 0 instead of zeros; or int32
lane    one of the 16 channels of a block; the lanes beyond C in the last block hold finite values and are never used
margin  zeros around each map, as many as the convs that read it need for their padding

A map of up to 4 channels can be narrow: (N, 1, …, 4), aligned to 16 bytes. First convolutions, packing, unpacking and the
wire accept narrow maps; the other kernels refuse them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fogconv.errors import KernelError
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import BLOCK, NARROW
from fogconv.ir.memory.algorithm import blocks as blocks
from fogconv.kernels.codegen.tile.fields import LINE
from fogconv.kernels.maps.large_pages import large_pages


class Margin(NamedTuple):
    """Rows and columns of zeros around a map."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0


@dataclass(frozen=True, slots=True)
class Blocked:
    """A map (N, channels, height, width) in the blocked layout; ``data`` may be a view with strides of its own."""

    data: NDArray[Any]
    channels: int
    height: int
    width: int
    margin: Margin = Margin()

    @staticmethod
    def empty(
        batch: int,
        channels: int,
        height: int,
        width: int,
        margin: Margin = Margin(),
        lanes: int = BLOCK,
        kind: DTypeLike = np.float32,
        fill: int = 0,
    ) -> Blocked:
        """A new map of zeros, or of ``fill``, 64-byte aligned; narrow where ``lanes`` is 4. Raises KernelError for negative
        sizes, and for more channels than a narrow map has."""
        shape = _shape(batch, channels, height, width, margin, lanes)
        data = aligned_zeros(shape, kind=kind)
        if fill:
            data[...] = fill
        return Blocked(data, channels, height, width, margin)

    @staticmethod
    def within(
        memory: Array, batch: int, channels: int, height: int, width: int, margin: Margin = Margin(), lanes: int = BLOCK
    ) -> Blocked:
        """A map in the first floats of a flat, 64-byte aligned array, which stay as they are."""
        shape = _shape(batch, channels, height, width, margin, lanes)
        return Blocked(memory[: math.prod(shape)].reshape(shape), channels, height, width, margin)

    @property
    def batch(self) -> int:
        return int(self.data.shape[0])

    @property
    def lanes(self) -> int:
        """16, or 4 if the map is narrow."""
        return int(self.data.shape[4])

    @property
    def interior(self) -> NDArray[Any]:
        """(N, ⌈C/16⌉, H, W, 16): the map without its margin, as a view."""
        m = self.margin
        return self.data[:, :, m.top : m.top + self.height, m.left : m.left + self.width, :]

    def view(self, channels: slice, rows: slice, columns: slice) -> Blocked:
        """A part of the map, without copying. The part's margin are the values around it in this map.

        ``channels`` must start at a multiple of 16. Raises KernelError otherwise.
        """
        if channels.start % BLOCK:
            raise KernelError(f"a view must start at a multiple of {BLOCK} channels, not at {channels.start}")
        m = self.margin
        return Blocked(
            self.data[:, channels.start // BLOCK : blocks(channels.stop)],
            channels.stop - channels.start,
            rows.stop - rows.start,
            columns.stop - columns.start,
            Margin(
                m.top + rows.start,
                m.bottom + self.height - rows.stop,
                m.left + columns.start,
                m.right + self.width - columns.stop,
            ),
        )


def aligned_zeros(shape: tuple[int, ...], alignment: int = 64, kind: DTypeLike = np.float32) -> NDArray[Any]:
    """An array of zeros, float32 by default, whose first element is aligned to ``alignment`` bytes."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    large = large_pages.zeros(size) if alignment <= LINE else None
    if large is not None:
        return large.view(kind).reshape(shape)
    raw = np.zeros(size + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + size].view(kind).reshape(shape)


def _shape(batch: int, channels: int, height: int, width: int, margin: Margin, lanes: int) -> tuple[int, ...]:
    """Of a map's array. Raises KernelError for negative sizes, and for more channels than a narrow map has."""
    rows, columns = margin.top + height + margin.bottom, margin.left + width + margin.right
    shape = (batch, blocks(channels), rows, columns, lanes)
    if lanes != BLOCK and not (lanes == NARROW and 0 < channels <= NARROW):
        raise KernelError(
            f"{channels} channels don't fit pixels of {lanes} lanes: it must be {BLOCK}, or {NARROW} for up to 4"
        )
    if min(batch, channels, height, width, *margin) < 0:
        raise KernelError(f"a blocked map can't have the negative sizes {shape}")
    return shape
