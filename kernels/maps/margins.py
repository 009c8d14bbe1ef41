"""Margins: zeros around a map, written again where another map lay in the same memory."""

from __future__ import annotations

import numpy as np

from fogconv.ir.geometry import BLOCK
from fogconv.kernels.codegen import vector
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.codegen.tile.fields import LINE
from fogconv.kernels.maps.blocked import Blocked, blocks
from fogconv.kernels.maps.bound import Bound, address_of, bind, place

LONG = 8
"""Bytes that are written at a time after the last whole line: a pixel has a multiple of them, whatever the type."""


def bind_margin(x: Blocked, byte: int = 0) -> Bound:
    """Write zeros, or in a map of bytes ``byte``, around a map of any type; around a view, over its neighbours. Raises
    KernelError for a narrow map."""
    at, m, pixel = place("the map", x, kind=x.data.dtype), x.margin, BLOCK * x.data.itemsize
    before, after = m.top * at.row + m.left * pixel, m.right * pixel + m.bottom * at.row
    value = int.from_bytes(bytes([byte]) * LONG, "little", signed=True)
    line = np.full(LINE, byte, np.uint8)
    sizes = (x.batch, blocks(x.channels), x.height, x.width * pixel)
    numbers = [*at, *sizes, before, (m.right + m.left) * pixel, after, value, address_of(line)]
    return bind(_clear, numbers, x.data, line)


@jit
def _fill(start, size, value, line):  # type: ignore[no-untyped-def]
    """Whole lines first: 8 bytes at a time took three times as long."""
    whole = start + size // 64 * 64
    for at in range(start, whole, 64):
        vector.store(at, line)
    for at in range(whole, start + size, LONG):
        vector.store_long(at, value)


@jit
def _clear(a):  # type: ignore[no-untyped-def]
    """Between two rows of a map its margin is in one piece."""
    x, x_image, x_block, x_row = a[0], a[1], a[2], a[3]
    batch, count, rows, width = a[4], a[5], a[6], a[7]
    before, between, after, value, line = a[8], a[9], a[10], a[11], vector.load(a[12])
    for n in range(batch):
        for block in range(count):
            start = x + n * x_image + block * x_block
            _fill(start - before, before, value, line)
            for row in range(rows - 1):
                _fill(start + row * x_row + width, between, value, line)
            _fill(start + (rows - 1) * x_row + width, after, value, line)
