"""Max and average pooling on bytes: exact sums, then the rounding of `fogconv.kernels.quantized.reference`."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from fogconv.errors import KernelError
from fogconv.ir.geometry import BLOCK, PoolSpec
from fogconv.kernels.codegen import vector
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.maps.blocked import Blocked
from fogconv.kernels.maps.bound import Bound, bind, place
from fogconv.kernels.maps.pooling import UNROLLED, window_tables
from fogconv.kernels.quantized import lanes
from fogconv.kernels.quantized.elementwise import bounds_in, bounds_of
from fogconv.kernels.quantized.numbers import Target


def bind_max_pool(
    spec: PoolSpec, x: Blocked, x_row: int, x_column: int, out: Blocked, out_row: int, out_column: int
) -> Bound:
    """The greatest byte of each window, on a part of a layer as in `fogconv.kernels.maps.pooling.bind_pool`."""
    return _bind(spec, x, x_row, x_column, out, out_row, out_column, 0, 1.0, Target(0))


def bind_average_pool(
    spec: PoolSpec,
    x: Blocked,
    x_row: int,
    x_column: int,
    out: Blocked,
    out_row: int,
    out_column: int,
    zero_x: int,
    ratio: float,
    target: Target,
) -> Bound:
    """rne(float32(Σ (x − zero_x))·m) + zero, m = float32(ratio / count), on a part of a layer; ``ratio``: scale_x /
    scale_out in float64."""
    return _bind(spec, x, x_row, x_column, out, out_row, out_column, zero_x, ratio, target)


def bind_global_sums(x: Blocked, out: Blocked, zero_x: int) -> Bound:
    """out (N, C, 1, 1) int32 = the sum of x − zero_x over the rows and columns that are here; such sums of parts are joined
    by `fogconv.kernels.quantized.elementwise.bind_requantise`. Raises KernelError for other shapes."""
    if (out.batch, out.channels, out.height, out.width) != (x.batch, x.channels, 1, 1):
        raise KernelError(
            f"an input of {(x.batch, x.channels)} can't be summed into {(out.batch, out.channels, out.height, out.width)}"
        )
    a, b = place("the input", x, kind=np.uint8), place("the output", out, kind=np.int32)
    numbers = (*a, *b[:3], x.batch, x.channels, x.height, x.width, zero_x)
    return bind(_global_sums, numbers, x.data, out.data)


def _bind(
    spec: PoolSpec,
    x: Blocked,
    x_row: int,
    x_column: int,
    out: Blocked,
    out_row: int,
    out_column: int,
    zero_x: int,
    ratio: float,
    target: Target,
) -> Bound:
    tables = window_tables(spec, x, x_row, x_column, out, out_row, out_column)
    a, b = place("the input", x, kind=np.uint8), place("the output", out, kind=np.uint8)
    divide = 1 if spec.divisor else 2 if spec.count_include_pad else 0
    numbers = [
        *a[:3],
        *b,
        *(out.batch, out.channels, out.height, out.width),
        *(spec.dilation[0] * a.row, spec.dilation[1] * BLOCK),
        *(divide, spec.divisor or 0, zero_x, *bounds_of(target), int(np.float64(ratio).view(np.int64))),
    ]
    for table, step in zip(tables, (a.row, BLOCK), strict=True):
        for window in table:
            numbers += [window.start * step if window.inside else 0, window.inside, window.counted]
    kernel = spec.kernel if spec.kernel in UNROLLED else (0, 0)
    return bind(_pool(spec.kind == "max", *kernel), numbers, x.data, out.data)


@cache
def _pool(is_max: bool, kernel_rows: int, kernel_columns: int) -> Any:
    """One compiled loop per common window (0×0: any). Cut-off windows share a slower one."""

    @jit
    def window(address, rows, columns, row_step, column_step):  # type: ignore[no-untyped-def]
        value = lanes.splat(0)
        for i in range(rows):
            for j in range(columns):
                element = lanes.load_bytes(address + i * row_step + j * column_step)
                value = lanes.greatest(value, element) if is_max else lanes.add(value, element)
        return value

    @jit
    def pool(a):  # type: ignore[no-untyped-def]
        batch, channels, rows, columns = a[7], a[8], a[9], a[10]
        row_step, column_step, divide, divisor, zero_x = a[11], a[12], a[13], a[14], a[15]
        low, high = bounds_in(a, 16)
        zero = lanes.splat(a[17])
        ratio = a[18:19].view(np.float64)[0]
        column_table = 19 + 3 * rows
        for n in range(batch):
            for block in range((channels + 15) >> 4):
                held = channels - block * 16
                for row in range(rows):
                    source = a[0] + n * a[1] + block * a[2] + a[19 + 3 * row]
                    inside, counted = a[20 + 3 * row], a[21 + 3 * row]
                    target = a[3] + n * a[4] + block * a[5] + row * a[6]
                    for column in range(columns):
                        at = column_table + 3 * column
                        width = a[at + 1]
                        address = source + a[at]
                        if inside == kernel_rows and width == kernel_columns:
                            value = lanes.load_bytes(address)
                            for i in range(kernel_rows):
                                for j in range(kernel_columns):
                                    if i + j > 0:
                                        element = lanes.load_bytes(address + i * row_step + j * column_step)
                                        value = lanes.greatest(value, element) if is_max else lanes.add(value, element)
                        else:
                            value = window(address, inside, width, row_step, column_step)
                        if is_max:
                            lanes.store_low(target + column * 16, value, held)
                        else:
                            count = inside * width
                            value = lanes.sub(value, lanes.splat(count * zero_x))
                            if divide == 1:
                                count = divisor
                            elif divide == 2:
                                count = counted * a[at + 2]
                            # An empty window: 0, whatever the divisor.
                            factor = vector.splat(np.float32(ratio / np.float64(count if count != 0 else 1)))
                            value_f = vector.mul(lanes.floats(value), factor)
                            lanes.store_bytes(target + column * 16, value_f, low, high, zero, held)

    return pool


@jit
def _global_sums(a):  # type: ignore[no-untyped-def]
    batch, channels, rows, columns, zero_x = a[7], a[8], a[9], a[10], a[11]
    start = lanes.splat(-zero_x * rows * columns)
    for n in range(batch):
        for block in range((channels + 15) >> 4):
            one, two = start, lanes.splat(0)
            for row in range(rows):
                source = a[0] + n * a[1] + block * a[2] + row * a[3]
                pairs = columns >> 1
                for at in range(0, pairs * 32, 32):
                    one = lanes.add(one, lanes.load_bytes(source + at))
                    two = lanes.add(two, lanes.load_bytes(source + at + 16))
                if columns & 1:
                    one = lanes.add(one, lanes.load_bytes(source + pairs * 32))
            lanes.store_ints_between(a[4] + n * a[5] + block * a[6], lanes.add(one, two), channels - 16 * block)
