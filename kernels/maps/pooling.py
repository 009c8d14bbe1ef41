"""Max, average and global pooling on blocked maps, with torch's exact semantics (see `fogconv.ir.geometry.PoolSpec`).

A rank may hold only some rows and columns of the layer's input, and compute only some of its output. The window of each
output row and column is computed beforehand: its start in the part held here, and how many of its elements are inputs.
Whole windows, which are nearly all, run in a loop with constant trip counts.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fogconv.errors import KernelError
from fogconv.ir.geometry import PoolSpec
from fogconv.kernels.codegen import vector
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.maps.blocked import Blocked
from fogconv.kernels.maps.bound import PIXEL, Bound, bind, flat, place

UNROLLED = ((2, 2), (3, 3))
"""The common windows, each with its own compiled loop; all others share one."""

NEGATIVE_INFINITY = np.float32(-np.inf)


class Window(NamedTuple):
    """The inputs under one output, along one axis: ``inside`` of them from ``start`` on, ``counted`` with the padding."""

    start: int
    inside: int
    counted: int


def windows(spec: PoolSpec, axis: int, first: int, count: int) -> list[Window]:
    """The windows of the outputs first … first+count−1 along the rows (axis 0) or columns (1) of the whole layer."""
    size = (spec.height, spec.width)[axis]
    before, after = spec.padding[2 * axis : 2 * axis + 2]
    kernel, stride, dilation = spec.kernel[axis], spec.stride[axis], spec.dilation[axis]
    found = []
    for index in range(first, first + count):
        start = index * stride - before
        skipped = -(start // dilation) if start < 0 else 0
        stop = min(kernel, (size - 1 - start) // dilation + 1)
        counted = min(start + kernel, size + after) - start
        found.append(Window(start + skipped * dilation, max(0, stop - skipped), counted))
    return found


def window_tables(
    spec: PoolSpec, x: Blocked, x_row: int, x_column: int, out: Blocked, out_row: int, out_column: int
) -> list[list[Window]]:
    """The windows of a part's rows and of its columns, checked, with their starts counted from the part of the input that
    is here: see `bind_pool`."""
    if spec.kind == "avg" and spec.dilation != (1, 1):
        raise KernelError(f"average pooling has no dilation, here {spec.dilation}")
    for name, view in (("input", x), ("output", out)):
        if (view.batch, view.channels) != (spec.batch, out.channels):
            raise KernelError(
                f"the {name} is {view.batch} × {view.channels} channels; "
                f"the layer has a batch of {spec.batch}, the output {out.channels} channels"
            )
    tables: list[list[Window]] = []
    parts = (
        (out_row, out.height, spec.out_height, x_row, x.height),
        (out_column, out.width, spec.out_width, x_column, x.width),
    )
    for axis, (first, count, whole, held, held_count) in enumerate(parts):
        name = ("rows", "columns")[axis]
        if first < 0 or first + count > whole:
            raise KernelError(f"output {name} {first} to {first + count} are not among the layer's {whole}")
        table = windows(spec, axis, first, count)
        inside = [window for window in table if window.inside]
        if inside:
            least = min(window.start for window in inside)
            most = max(window.start + (window.inside - 1) * spec.dilation[axis] for window in inside) + 1
            if least < held or most > held + held_count:
                raise KernelError(
                    f"output {name} {first} to {first + count} need the input's {name} {least} to {most}; "
                    f"{held} to {held + held_count} are here"
                )
        tables.append([window._replace(start=window.start - held) for window in table])
    return tables


def bind_pool(spec: PoolSpec, x: Blocked, x_row: int, x_column: int, out: Blocked, out_row: int, out_column: int) -> Bound:
    """Pool a part of a layer: ``out`` is filled for the layer's output rows ``out_row``… and columns ``out_column``….

    ``x`` holds the rows ``x_row``… and columns ``x_column``… of the layer's input (``spec.height`` × ``spec.width``).
    Raises KernelError where ``x`` lacks rows or columns that the windows need, or where ``out`` is not part of the
    layer's output.
    """
    tables = window_tables(spec, x, x_row, x_column, out, out_row, out_column)
    a, b = place("input", x), place("output", out)
    whole_columns = [index for index, window in enumerate(tables[1]) if window.inside == spec.kernel[1]]
    first_whole = whole_columns[0] if whole_columns else 0
    divide = 1 if spec.divisor else 2 if spec.count_include_pad else 0
    numbers = [
        *a[:3],
        *b,
        out.batch,
        out.channels,
        out.height,
        out.width,
        *(first_whole, first_whole + len(whole_columns), spec.stride[1] * PIXEL),
        *(spec.dilation[0] * a.row, spec.dilation[1] * PIXEL, divide, spec.divisor or 0, *spec.kernel),
    ]
    for table, step in zip(tables, (a.row, PIXEL), strict=True):
        for window in table:
            numbers += [window.start * step if window.inside else 0, window.inside, window.counted]
    kernel = spec.kernel if spec.kernel in UNROLLED else (0, 0)
    return bind(_pool(spec.kind == "max", *kernel), numbers, x.data, out.data)


def bind_global_pool(x: Blocked, out: Blocked, divisor: int) -> Bound:
    """out (N, C, 1, 1) = the sum over the input's rows and columns ÷ ``divisor``. Raises KernelError for other shapes."""
    if (out.batch, out.channels, out.height, out.width) != (x.batch, x.channels, 1, 1) or divisor == 0:
        raise KernelError(
            f"an input of {(x.batch, x.channels)} can't be pooled into {(out.batch, out.channels, out.height, out.width)} "
            f"with divisor {divisor}"
        )
    a, b = place("input", x), place("output", out)
    rows, columns = flat(x.height, x.width, a)
    numbers = (*a, *b[:3], x.batch, x.channels, rows, columns, divisor)
    return bind(_global_pool, numbers, x.data, out.data)


@cache
def _pool(is_max: bool, kernel_rows: int, kernel_columns: int) -> Any:
    """The loop for whole windows of one size; of any size where it is 0×0."""

    @jit
    def part(address, rows, columns, row_step, column_step):  # type: ignore[no-untyped-def]
        """A window that is cut off at a border."""
        value = vector.splat(NEGATIVE_INFINITY) if is_max else vector.zero()
        for i in range(rows):
            for j in range(columns):
                element = vector.load(address + i * row_step + j * column_step)
                value = vector.maximum(value, element) if is_max else vector.add(value, element)
        return value

    @jit
    def pool(a):  # type: ignore[no-untyped-def]
        x, x_image, x_block = a[0], a[1], a[2]
        out, out_image, out_block, out_row = a[3], a[4], a[5], a[6]
        batch, channels, rows, columns = a[7], a[8], a[9], a[10]
        first, stop, stride = a[11], a[12], a[13]
        row_step, column_step, divide, divisor = a[14], a[15], a[16], a[17]
        all_rows, all_columns = a[18], a[19]
        column_table = 20 + 3 * rows
        for n in range(batch):
            for block in range((channels + 15) >> 4):
                lanes = channels - block * 16
                for row in range(rows):
                    source = x + n * x_image + block * x_block + a[20 + 3 * row]
                    inside, counted = a[21 + 3 * row], a[22 + 3 * row]
                    target = out + n * out_image + block * out_block + row * out_row
                    column = 0
                    while column < columns:
                        at = column_table + 3 * column
                        if first <= column < stop and inside == all_rows and kernel_rows > 0:
                            # A run of whole windows of the compiled size.
                            count = divisor if divide == 1 else all_rows * all_columns
                            factor = vector.splat(np.float32(1.0) / np.float32(count))
                            address = source + a[at]
                            for _ in range(stop - column):
                                value = vector.load(address)
                                for i in range(kernel_rows):
                                    for j in range(kernel_columns):
                                        if i + j > 0:
                                            element = vector.load(address + i * row_step + j * column_step)
                                            value = vector.maximum(value, element) if is_max else vector.add(value, element)
                                if not is_max:
                                    value = vector.mul(value, factor)
                                if lanes >= 16:
                                    vector.store(target + column * 64, value)
                                else:
                                    vector.store_between(target + column * 64, value, 0, lanes)
                                address += stride
                                column += 1
                        else:
                            width = a[at + 1]
                            value = part(source + a[at], inside, width, row_step, column_step)
                            if not is_max:
                                count = inside * width
                                if divide == 1:
                                    count = divisor
                                elif divide == 2:
                                    count = counted * a[at + 2]
                                # An empty window: 0, whatever the divisor.
                                value = vector.mul(
                                    value, vector.splat(np.float32(1.0) / np.float32(count if count != 0 else 1))
                                )
                            if lanes >= 16:
                                vector.store(target + column * 64, value)
                            else:
                                vector.store_between(target + column * 64, value, 0, lanes)
                            column += 1

    return pool


@jit
def _global_pool(a):  # type: ignore[no-untyped-def]
    x, x_image, x_block, x_row = a[0], a[1], a[2], a[3]
    out, out_image, out_block = a[4], a[5], a[6]
    batch, channels, rows, columns, divisor = a[7], a[8], a[9], a[10], a[11]
    for n in range(batch):
        for block in range((channels + 15) >> 4):
            total = vector.zero()
            for row in range(rows):
                source = x + n * x_image + block * x_block + row * x_row
                # Four independent sums, because the latency of one addition would be the limit.
                one, two, three, four = vector.zero(), vector.zero(), vector.zero(), vector.zero()
                quads = columns >> 2
                for p in range(0, quads * 256, 256):
                    one = vector.add(one, vector.load(source + p))
                    two = vector.add(two, vector.load(source + p + 64))
                    three = vector.add(three, vector.load(source + p + 128))
                    four = vector.add(four, vector.load(source + p + 192))
                for p in range(quads * 256, columns * 64, 64):
                    one = vector.add(one, vector.load(source + p))
                total = vector.add(total, vector.add(vector.add(one, two), vector.add(three, four)))
            value = vector.div(total, vector.splat(np.float32(divisor)))
            target = out + n * out_image + block * out_block
            if channels - block * 16 >= 16:
                vector.store(target, value)
            else:
                vector.store_between(target, value, 0, channels - block * 16)
