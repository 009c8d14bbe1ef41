"""Resampling of blocked maps: resizing, slicing with steps, flipping and padding are weighted sums along rows and columns.

The taps of every row and column (see `fogconv.ir.geometry.Taps`) are resolved to addresses beforehand, so that the inner
loop only loads, multiplies and stores whole pixels of 16 channels. Copies and sums of 2 × 2 (bilinear) have their own loops.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from fogconv.errors import KernelError
from fogconv.ir.geometry import Taps
from fogconv.kernels.codegen import vector
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.maps.blocked import Blocked, aligned_zeros
from fogconv.kernels.maps.bound import PIXEL, Bound, address_of, bind, place

PLAIN, PAIR, ANY = range(3)
"""One input for each output; two, with weights, along both axes; any number."""


def bind_resample(x: Blocked, out: Blocked, rows: Taps, columns: Taps, fill: float = 0.0) -> Bound:
    """out[y, x] = Σ weights · the taps of row y and column x; ``fill`` where one of them has none.

    Raises KernelError for maps whose sizes are not those of the taps.
    """
    found = (out.batch, out.channels, x.height, x.width, out.height, out.width)
    wanted = (x.batch, x.channels, rows.size, columns.size, len(rows.starts), len(columns.starts))
    if found != wanted:
        raise KernelError(f"a resampling of {wanted} can't be computed on maps of {found}")
    a, b = place("input", x), place("output", out)
    most = max(rows.most, columns.most)
    mode = PLAIN if not (rows.weights or columns.weights) else PAIR if most <= 2 else ANY
    weights, table = [fill], []
    for taps, step in ((rows, a.row), (columns, PIXEL)):
        for number, start in enumerate(taps.starts):
            own = taps.weights[number] if taps.weights and start >= 0 else (1.0,)
            last = start + len(own) - 1
            table.append((start * step if start >= 0 else -1, last * step if mode == PAIR else len(own), 4 * len(weights)))
            weights += own if mode != PAIR or len(own) == 2 else (*own, 0.0)
    numbers = aligned_zeros((len(weights) + 1,))  # a second weight is loaded in every mode
    numbers[:-1] = weights
    base = address_of(numbers)
    flat = [value for first, second, weight in table for value in (first, second, base + weight)]
    header = (*a, *b, out.batch, out.channels, out.height, out.width, base)
    return bind(_resample(mode), (*header, *flat), x.data, out.data, numbers)


@cache
def _resample(mode: int) -> Any:
    """The loop for one mode. A row or column is (the offset of its first tap or −1, that of its last or their number, the
    address of its weights)."""

    @jit
    def pair(above, below, left, right, upper, lower, weights):  # type: ignore[no-untyped-def]
        one = vector.fma(vector.load(below + left), lower, vector.mul(vector.load(above + left), upper))
        other = vector.fma(vector.load(below + right), lower, vector.mul(vector.load(above + right), upper))
        return vector.fma(other, vector.load_splat(weights + 4), vector.mul(one, vector.load_splat(weights)))

    @jit
    def several(address, row_step, rows, row_weights, columns, weights):  # type: ignore[no-untyped-def]
        total = vector.zero()
        for i in range(rows):
            value = vector.zero()
            for j in range(columns):
                element = vector.load(address + i * row_step + j * 64)
                value = vector.fma(element, vector.load_splat(weights + j * 4), value)
            total = vector.fma(value, vector.load_splat(row_weights + i * 4), total)
        return total

    @jit
    def resample(a):  # type: ignore[no-untyped-def]
        x, x_image, x_block, x_row = a[0], a[1], a[2], a[3]
        out, out_image, out_block, out_row = a[4], a[5], a[6], a[7]
        batch, channels, rows, columns = a[8], a[9], a[10], a[11]
        fill = vector.load_splat(a[12])
        for n in range(batch):
            for block in range((channels + 15) >> 4):
                lanes = channels - block * 16
                source = x + n * x_image + block * x_block
                for row in range(rows):
                    at = 13 + 3 * row
                    first, second, weights = a[at], a[at + 1], a[at + 2]
                    upper, lower = vector.load_splat(weights), vector.load_splat(weights + 4)
                    target = out + n * out_image + block * out_block + row * out_row
                    for column in range(columns):
                        here = 13 + 3 * rows + 3 * column
                        left = a[here]
                        value = fill
                        if first >= 0 and left >= 0:
                            if mode == 0:
                                value = vector.load(source + first + left)
                            elif mode == 1:
                                value = pair(source + first, source + second, left, a[here + 1], upper, lower, a[here + 2])
                            else:
                                value = several(source + first + left, x_row, second, weights, a[here + 1], a[here + 2])
                        if lanes >= 16:
                            vector.store(target + column * 64, value)
                        else:
                            vector.store_between(target + column * 64, value, 0, lanes)

    return resample
