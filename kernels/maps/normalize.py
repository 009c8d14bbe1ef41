"""Normalization over rows, columns and groups of channels: the squares about the mean, and the map made by both.

squares    out[c] = Σ over rows and columns of (x[c] − mean of c's group)² ÷ divisor
normalize  out = activation((x − mean) ÷ √(variance + eps) · scale + shift), mean and variance of the channel's group

Means and squares are maps (N, C, 1, 1), one value per channel; a group's is the mean over its channels, taken here, in
float64. A rank may hold some of the channels only: the first of its means' channels then begins a group.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from fogconv.errors import KernelError
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import BLOCK
from fogconv.kernels.codegen import formulas, vector
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.maps.blocked import Blocked, aligned_zeros, blocks
from fogconv.kernels.maps.bound import Bound, Place, address_of, bind, flat, place, same_size


def bind_squares(x: Blocked, mean: Blocked, out: Blocked, per_group: int, first: int, divisor: int) -> Bound:
    """``first`` is the place of the output's first channel among the means' channels, ``per_group`` the channels of a
    group. Raises KernelError for shapes that don't fit."""
    if (out.batch, out.channels, out.height, out.width) != (x.batch, x.channels, 1, 1) or divisor < 1:
        raise KernelError(f"the squares of {(x.batch, x.channels)} channels can't be summed with the divisor {divisor}")
    m = _statistic("mean", mean, out, per_group, first)
    a, b = place("input", x), place("output", out)
    rows, columns = flat(x.height, x.width, a)
    centres = aligned_zeros((blocks(out.channels) * BLOCK,))
    numbers = (*a, *m[:3], *b[:3], x.batch, x.channels, rows, columns, per_group, first, divisor, address_of(centres))
    return bind(_squares, numbers, x.data, mean.data, out.data, centres)


def bind_normalize(
    x: Blocked,
    mean: Blocked,
    squares: Blocked,
    out: Blocked,
    per_group: int,
    first: int,
    eps: float,
    scale: Array | None = None,
    shift: Array | None = None,
    activation: str | None = None,
) -> Bound:
    """``first`` and ``per_group`` as in `bind_squares`; scale and shift are (C,). ``out`` may be ``x``. Raises KernelError
    for shapes that don't fit, and for an unknown activation."""
    same_size("the input", x, out)
    m, v = (_statistic(name, map_, out, per_group, first) for name, map_ in (("mean", mean), ("squares", squares)))
    chosen = formulas.activation(activation)
    lanes = formulas.lanes(() if chosen is None else chosen.parameters)
    room = aligned_zeros((5, blocks(out.channels) * BLOCK))
    for row, values, default in ((3, scale, 1.0), (4, shift, 0.0)):
        if values is not None and values.shape != (out.channels,):
            raise KernelError(f"scale or shift has the shape {values.shape}; the map has {out.channels} channels")
        room[row, : out.channels] = default if values is None else values
    a, b = place("input", x), place("output", out)
    rows, columns = flat(out.height, out.width, a, b)
    eps_ = np.full(1, eps, np.float32)
    numbers = (
        *(*a, *b, *m[:3], *v[:3]),
        *(out.batch, out.channels, rows, columns, per_group, first),
        *(*(address_of(row) for row in room), address_of(eps_), address_of(lanes)),
    )
    kept = (x.data, out.data, mean.data, squares.data, room, eps_, lanes)
    return bind(_normalize(None if chosen is None else chosen.name), numbers, *kept)


def _statistic(name: str, values: Blocked, out: Blocked, per_group: int, first: int) -> Place:
    fits = per_group >= 1 and first >= 0 and values.batch == out.batch and (values.height, values.width) == (1, 1)
    if not fits or values.channels % per_group or first + out.channels > values.channels:
        shape = (values.batch, values.channels, values.height, values.width)
        raise KernelError(
            f"the {name} has the shape {shape}; it must have whole groups of {per_group} channels, the output's "
            f"{first} to {first + out.channels} among them"
        )
    return place(name, values)


@jit
def _spread(values, block_bytes, channels, per_group, first, to):  # type: ignore[no-untyped-def]
    """Each channel's mean over its group, from the values of all channels of the groups."""
    mean = np.float32(0.0)
    for channel in range(channels):
        at = first + channel
        if channel == 0 or at % per_group == 0:
            start = at // per_group * per_group
            total = 0.0
            for other in range(start, start + per_group):
                total += vector.load_float(values + (other >> 4) * block_bytes + (other & 15) * 4)
            mean = np.float32(total / per_group)
        vector.store_float(to + channel * 4, mean)


@jit
def _squares(a):  # type: ignore[no-untyped-def]
    x, x_image, x_block, x_row = a[0], a[1], a[2], a[3]
    mean, mean_image, mean_block, out, out_image, out_block = a[4], a[5], a[6], a[7], a[8], a[9]
    batch, channels, rows, columns = a[10], a[11], a[12], a[13]
    per_group, first, divisor, centres = a[14], a[15], a[16], a[17]
    for n in range(batch):
        _spread(mean + n * mean_image, mean_block, channels, per_group, first, centres)
        for block in range((channels + 15) >> 4):
            centre = vector.load(centres + block * 64)
            total = vector.zero()
            for row in range(rows):
                source = x + n * x_image + block * x_block + row * x_row
                # Two sums per row, because the latency of one addition would be the limit.
                one, two = vector.zero(), vector.zero()
                pairs = columns >> 1
                for p in range(0, pairs * 128, 128):
                    off = vector.sub(vector.load(source + p), centre)
                    one = vector.fma(off, off, one)
                    off = vector.sub(vector.load(source + p + 64), centre)
                    two = vector.fma(off, off, two)
                for p in range(pairs * 128, columns * 64, 64):
                    off = vector.sub(vector.load(source + p), centre)
                    one = vector.fma(off, off, one)
                total = vector.add(total, vector.add(one, two))
            value = vector.div(total, vector.splat(np.float32(divisor)))
            lanes = min(16, channels - block * 16)
            vector.store_between(out + n * out_image + block * out_block, value, 0, lanes)


@cache
def _normalize(activation: str | None) -> Any:
    apply, root = formulas.applied(activation), formulas.applied("sqrt")

    @jit
    def normalize(a):  # type: ignore[no-untyped-def]
        x, x_image, x_block, x_row = a[0], a[1], a[2], a[3]
        out, out_image, out_block, out_row = a[4], a[5], a[6], a[7]
        mean, mean_image, mean_block, squares, squares_image, squares_block = a[8], a[9], a[10], a[11], a[12], a[13]
        batch, channels, rows, columns, per_group, first = a[14], a[15], a[16], a[17], a[18], a[19]
        centres, factors, variances, scales, shifts, eps = a[20], a[21], a[22], a[23], a[24], vector.load_splat(a[25])
        p0, p1, p2 = vector.load(a[26]), vector.load(a[26] + 64), vector.load(a[26] + 128)
        none = vector.zero()
        for n in range(batch):
            _spread(mean + n * mean_image, mean_block, channels, per_group, first, centres)
            _spread(squares + n * squares_image, squares_block, channels, per_group, first, variances)
            for block in range((channels + 15) >> 4):
                variance = vector.add(vector.load(variances + block * 64), eps)
                deviation = root(variance, none, none, none, none)
                vector.store(factors + block * 64, vector.div(vector.load(scales + block * 64), deviation))
            for block in range((channels + 15) >> 4):
                centre, factor = vector.load(centres + block * 64), vector.load(factors + block * 64)
                shift = vector.load(shifts + block * 64)
                lanes = channels - block * 16
                for row in range(rows):
                    source = x + n * x_image + block * x_block + row * x_row
                    target = out + n * out_image + block * out_block + row * out_row
                    for p in range(0, columns * 64, 64):
                        value = vector.fma(vector.sub(vector.load(source + p), centre), factor, shift)
                        value = apply(value, value, p0, p1, p2)
                        if lanes >= 16:
                            vector.store(target + p, value)
                        else:
                            vector.store_between(target + p, value, 0, lanes)

    return normalize
