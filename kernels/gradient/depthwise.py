"""The gradients of a depthwise convolution: every lane is a group, so both are sums of products lane by lane.

w  (1, c, 1, K_h·K_w) blocked: for each block of groups one vector per tap
"""

from __future__ import annotations

from typing import Any

from fogconv.ir.geometry import ConvSpec
from fogconv.kernels.codegen import vector
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.gradient.phases import Phase
from fogconv.kernels.maps.blocked import Blocked
from fogconv.kernels.maps.bound import PIXEL, Bound, bind, place


def bind_depthwise_input(spec: ConvSpec, row: Phase, column: Phase, go: Blocked, w: Blocked, gi: Blocked) -> Bound:
    """One phase of the gradient in the input. ``go`` needs the margin that the taps reach into."""
    a, b, c = place("grad_out", go), place("weight", w), place("grad_input", gi)
    taps = []
    for i, down in row.taps:
        for j, across in column.taps:
            taps += [down * a.row + across * PIXEL, (i * spec.kernel[1] + j) * PIXEL]
    numbers = (
        *a,
        *(c.address + row.first * c.row + column.first * PIXEL, c.image, c.block, c.row * spec.stride[0]),
        *(PIXEL * spec.stride[1], b.address, b.block, spec.batch, gi.data.shape[1], row.size, column.size),
        *(len(taps) // 2, *taps),
    )
    return bind(_depthwise_input, numbers, go.data, w.data, gi.data)


def bind_depthwise_weight(spec: ConvSpec, x: Blocked, go: Blocked, w: Blocked) -> Bound:
    """The gradient in the weight. ``x`` needs the padding as its margin."""
    a, b, c = place("x", x), place("grad_out", go), place("grad_weight", w)
    numbers = (
        *(a.address - spec.padding[0] * a.row - spec.padding[2] * PIXEL, a.image, a.block, a.row * spec.stride[0]),
        *(spec.stride[1] * PIXEL, a.row * spec.dilation[0], spec.dilation[1] * PIXEL),
        *(*b, c.address, c.block),
        *(spec.batch, w.data.shape[1], spec.out_height, spec.out_width, *spec.kernel),
    )
    return bind(_depthwise_weight, numbers, x.data, go.data, w.data)


@jit
def _depthwise_input(a: Any) -> None:
    go, go_image, go_block, go_row = a[0], a[1], a[2], a[3]
    gi, gi_image, gi_block, gi_row, gi_column = a[4], a[5], a[6], a[7], a[8]
    w, w_block, batch, blocks, rows, columns, count = a[9], a[10], a[11], a[12], a[13], a[14], a[15]
    for n in range(batch):
        for block in range(blocks):
            weights = w + block * w_block
            for row in range(rows):
                source = go + n * go_image + block * go_block + row * go_row
                target = gi + n * gi_image + block * gi_block + row * gi_row
                for _ in range(columns):
                    total = vector.zero()
                    for tap in range(count):
                        factor = vector.load(weights + a[17 + 2 * tap])
                        total = vector.fma(vector.load(source + a[16 + 2 * tap]), factor, total)
                    vector.store(target, total)
                    source += 64
                    target += gi_column


@jit
def _depthwise_weight(a: Any) -> None:
    x, x_image, x_block, x_row, x_column, tap_row, tap_column = a[0], a[1], a[2], a[3], a[4], a[5], a[6]
    go, go_image, go_block, go_row, w, w_block = a[7], a[8], a[9], a[10], a[11], a[12]
    batch, blocks, rows, columns, kernel_rows, kernel_columns = a[13], a[14], a[15], a[16], a[17], a[18]
    for block in range(blocks):
        for i in range(kernel_rows):
            for j in range(kernel_columns):
                total = vector.zero()
                for n in range(batch):
                    for row in range(rows):
                        source = x + n * x_image + block * x_block + row * x_row + i * tap_row + j * tap_column
                        factor = go + n * go_image + block * go_block + row * go_row
                        # Two sums side by side against the latency of an addition, and one per row against rounding.
                        even, odd = vector.zero(), vector.zero()
                        for column in range(0, columns - 1, 2):
                            at, by = source + column * x_column, factor + column * 64
                            even = vector.fma(vector.load(at), vector.load(by), even)
                            odd = vector.fma(vector.load(at + x_column), vector.load(by + 64), odd)
                        if columns & 1:
                            at, by = source + (columns - 1) * x_column, factor + (columns - 1) * 64
                            even = vector.fma(vector.load(at), vector.load(by), even)
                        total = vector.add(total, vector.add(even, odd))
                vector.store(w + block * w_block + (i * kernel_columns + j) * 64, total)
