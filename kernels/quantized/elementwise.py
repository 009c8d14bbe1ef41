"""Operators on bytes that look at one pixel at a time: sums, products, other scales, tables, and to and from floats.

Each gives the bits of its namesake in `fogconv.kernels.quantized.reference`. All walk a map once. Margins are never written,
nor the lanes of the last block beyond the output's channels: they may belong to a neighbouring part of the same buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from fogconv.errors import KernelError
from fogconv.ir.geometry import BLOCK
from fogconv.kernels.codegen import vector
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.codegen.tile.fields import clamp_bounds
from fogconv.kernels.maps.blocked import Blocked, aligned_zeros, blocks
from fogconv.kernels.maps.bound import Bound, Place, address_of, bind, place, same_size
from fogconv.kernels.quantized import lanes
from fogconv.kernels.quantized.numbers import Bytes, Floats, Scale, Sums, Target


def bind_add(
    a: Blocked, b: Blocked, out: Blocked, zeros: tuple[int, int], multipliers: tuple[np.float32, np.float32], target: Target
) -> Bound:
    """out = rne(float32(a − zero_a)·m_a + float32(b − zero_b)·m_b) + zero. ``out`` may be ``a`` or ``b``.

    Raises KernelError for maps that are not of the output's shape.
    """
    same_size("the first term", a, out)
    same_size("the second term", b, out)
    numbers = [*_place("the first term", a), *_place("the second term", b), *_place("the output", out), *_sizes(out)]
    return bind(
        _add, [*numbers, *bounds_of(target), *zeros, clamp_bounds(*map(float, multipliers))], a.data, b.data, out.data
    )


def bind_multiply(
    a: Blocked, b: Blocked, out: Blocked, zeros: tuple[int, int], multiplier: np.float32, target: Target
) -> Bound:
    """out = rne(float32((a − zero_a)·(b − zero_b))·m) + zero; ``b`` may be a gate, (N, C, 1, 1).

    Raises KernelError for other shapes.
    """
    same_size("the first factor", a, out)
    gate = (b.height, b.width) == (1, 1)
    if not gate or (b.batch, b.channels) != (out.batch, out.channels):
        same_size("the second factor", b, out)
    second = _place("the second factor", b)
    numbers = [*_place("the first factor", a), *(second._replace(row=0) if gate else second), *_place("the output", out)]
    numbers += [*_sizes(out), *bounds_of(target), *zeros, clamp_bounds(float(multiplier), 0.0), 0 if gate else BLOCK]
    return bind(_multiply, numbers, a.data, b.data, out.data)


def bind_rescale(x: Blocked, out: Blocked, zero_x: int, multiplier: np.float32, target: Target) -> Bound:
    """out = rne(float32(x − zero_x)·m) + zero: another scale, m = float32(scale_x / scale_out). ``out`` may be ``x``."""
    same_size("the input", x, out)
    numbers = [*_place("the input", x), *_place("the output", out), *_sizes(out), *bounds_of(target)]
    return bind(_rescale, [*numbers, zero_x, clamp_bounds(float(multiplier), 0.0)], x.data, out.data)


def bind_table(x: Blocked, out: Blocked, entries: Bytes) -> Bound:
    """out = the entry, of a table of 256, of each byte: any function of one map. ``out`` may be ``x``.

    Raises KernelError for another table, and for a map that is not of the output's shape.
    """
    same_size("the input", x, out)
    if entries.dtype != np.uint8 or entries.shape != (256,):
        raise KernelError(f"a table must be uint8 (256,), not {entries.dtype} {entries.shape}")
    kept = np.ascontiguousarray(entries)
    numbers = [*_place("the input", x), *_place("the output", out), *_sizes(out), address_of(kept)]
    return bind(_table, numbers, kept, x.data, out.data)


def bind_quantise(x: Blocked, out: Blocked, scale: Scale) -> Bound:
    """out = rne(x / scale) + zero, from float32 to uint8; NaN gives 0. Both may be narrow."""
    same_size("the input", x, out)
    a, b = place("the input", x, True), place("the output", out, True, np.uint8)
    if x.lanes != out.lanes:
        raise KernelError(f"quantise: the input has {x.lanes} lanes per pixel, the output {out.lanes}; they must be equal")
    numbers = [*a, *b, *_sizes(out), *bounds_of(Target(scale.zero)), clamp_bounds(scale.scale, 0.0), x.lanes]
    return bind(_quantise, numbers, x.data, out.data)


def bind_dequantise(x: Blocked, out: Blocked, scale: Scale) -> Bound:
    """out = float32(x − zero)·scale, from uint8 to float32."""
    same_size("the input", x, out)
    numbers = [*_place("the input", x), *place("the output", out), *_sizes(out), scale.zero, clamp_bounds(scale.scale, 0.0)]
    return bind(_dequantise, numbers, x.data, out.data)


def bind_requantise(
    sums: Sequence[Blocked], out: Blocked, bias: Sums | None, multipliers: Floats | None, target: Target | None = None
) -> Bound:
    """What a convolution makes of its sums, from partial ones (int32): out = rne(float32(Σ sums + bias)·m) + zero.

    ``bias`` and ``multipliers`` are (C,). Without a target the output is float32, without multipliers int32. Raises
    KernelError for no sums, and for other shapes.
    """
    if not sums:
        raise KernelError("requantise: there are no sums; at least one is needed")
    if target is not None and multipliers is None:
        raise KernelError("requantise: bytes need multipliers; none are given")
    for source in sums:
        same_size("a partial sum", source, out)
    per_channel = aligned_zeros((2, blocks(out.channels) * BLOCK), kind=np.int32)
    for row, values, kind in ((per_channel[0], bias, np.int32), (per_channel[1], multipliers, np.float32)):
        if values is not None:
            if values.shape != (out.channels,) or values.dtype != kind:
                raise KernelError(
                    f"requantise: {np.dtype(kind)} ({out.channels},) is needed, not {values.dtype} {values.shape}"
                )
            row[: out.channels] = values.view(np.int32)
    result: Any = np.int32 if multipliers is None else np.float32 if target is None else np.uint8
    places = [place("a partial sum", source, kind=np.int32) for source in sums]
    numbers = [
        *place("the output", out, kind=result),
        *_sizes(out),
        *bounds_of(target or Target(0)),
        address_of(per_channel),
    ]
    numbers += [per_channel.strides[0], len(places)]
    for at in places:
        numbers += at
    return bind(_requantise(np.dtype(result).name), numbers, per_channel, out.data, *(source.data for source in sums))


def _place(name: str, x: Blocked) -> Place:
    return place(name, x, kind=np.uint8)


def _sizes(x: Blocked) -> tuple[int, int, int, int]:
    return x.batch, x.channels, x.height, x.width


def bounds_of(target: Target) -> tuple[int, int]:
    """The bounds less the zero, as two floats, and the zero."""
    return clamp_bounds(target.low - target.zero, target.high - target.zero), target.zero


@jit
def bounds_in(numbers, index):  # type: ignore[no-untyped-def]
    """The two floats that an integer of a kernel's array holds, as Vecs."""
    at = numbers.ctypes.data + 8 * index
    return vector.load_splat(at), vector.load_splat(at + 4)


@jit
def _sum(x, y, zero_a, zero_b, factor_a, factor_b):  # type: ignore[no-untyped-def]
    first = vector.mul(lanes.floats(lanes.sub(lanes.load_bytes(x), zero_a)), factor_a)
    return vector.add(first, vector.mul(lanes.floats(lanes.sub(lanes.load_bytes(y), zero_b)), factor_b))


@jit
def _add(a):  # type: ignore[no-untyped-def]
    batch, channels, rows, columns = a[12], a[13], a[14], a[15]
    low, high = bounds_in(a, 16)
    zero, zero_a, zero_b = lanes.splat(a[17]), lanes.splat(a[18]), lanes.splat(a[19])
    factor_a, factor_b = bounds_in(a, 20)
    for n in range(batch):
        for block in range((channels + 15) >> 4):
            count = channels - 16 * block
            for row in range(rows):
                x = a[0] + n * a[1] + block * a[2] + row * a[3]
                y = a[4] + n * a[5] + block * a[6] + row * a[7]
                out = a[8] + n * a[9] + block * a[10] + row * a[11]
                fours = 64 * (columns >> 2) if count >= 16 else 0
                for at in range(0, fours, 64):
                    one = _sum(x + at, y + at, zero_a, zero_b, factor_a, factor_b)
                    two = _sum(x + at + 16, y + at + 16, zero_a, zero_b, factor_a, factor_b)
                    three = _sum(x + at + 32, y + at + 32, zero_a, zero_b, factor_a, factor_b)
                    four = _sum(x + at + 48, y + at + 48, zero_a, zero_b, factor_a, factor_b)
                    lanes.store_four(out + at, one, two, three, four, low, high, zero)
                for at in range(fours, 16 * columns, 16):
                    total = _sum(x + at, y + at, zero_a, zero_b, factor_a, factor_b)
                    lanes.store_bytes(out + at, total, low, high, zero, count)


@jit
def _multiply(a):  # type: ignore[no-untyped-def]
    batch, channels, rows, columns = a[12], a[13], a[14], a[15]
    low, high = bounds_in(a, 16)
    zero, zero_a, zero_b = lanes.splat(a[17]), lanes.splat(a[18]), lanes.splat(a[19])
    factor, _ = bounds_in(a, 20)
    step = a[21]
    for n in range(batch):
        for block in range((channels + 15) >> 4):
            count = channels - 16 * block
            for row in range(rows):
                x = a[0] + n * a[1] + block * a[2] + row * a[3]
                y = a[4] + n * a[5] + block * a[6] + row * a[7]
                out = a[8] + n * a[9] + block * a[10] + row * a[11]
                for column in range(columns):
                    first = lanes.sub(lanes.load_bytes(x + 16 * column), zero_a)
                    second = lanes.sub(lanes.load_bytes(y + step * column), zero_b)
                    product = vector.mul(lanes.floats(lanes.mul(first, second)), factor)
                    lanes.store_bytes(out + 16 * column, product, low, high, zero, count)


@jit
def _rescale(a):  # type: ignore[no-untyped-def]
    batch, channels, rows, columns = a[8], a[9], a[10], a[11]
    low, high = bounds_in(a, 12)
    zero, zero_x = lanes.splat(a[13]), lanes.splat(a[14])
    factor, _ = bounds_in(a, 15)
    for n in range(batch):
        for block in range((channels + 15) >> 4):
            count = channels - 16 * block
            for row in range(rows):
                x = a[0] + n * a[1] + block * a[2] + row * a[3]
                out = a[4] + n * a[5] + block * a[6] + row * a[7]
                for at in range(0, 16 * columns, 16):
                    value = vector.mul(lanes.floats(lanes.sub(lanes.load_bytes(x + at), zero_x)), factor)
                    lanes.store_bytes(out + at, value, low, high, zero, count)


@jit
def _table(a):  # type: ignore[no-untyped-def]
    batch, channels, rows, columns = a[8], a[9], a[10], a[11]
    entries = lanes.load_table(a[12])
    for n in range(batch):
        for block in range((channels + 15) >> 4):
            count = channels - 16 * block
            for row in range(rows):
                x = a[0] + n * a[1] + block * a[2] + row * a[3]
                out = a[4] + n * a[5] + block * a[6] + row * a[7]
                fours = 64 * (columns >> 2) if count >= 16 else 0
                for at in range(0, fours, 64):
                    lanes.look_up_four(out + at, x + at, entries)
                for at in range(fours, 16 * columns, 16):
                    lanes.look_up(out + at, x + at, entries, count)


@jit
def _quantise(a):  # type: ignore[no-untyped-def]
    batch, channels, rows, columns = a[8], a[9], a[10], a[11]
    low, high = bounds_in(a, 12)
    zero = lanes.splat(a[13])
    scale, _ = bounds_in(a, 14)
    width = a[15]
    for n in range(batch):
        for block in range((channels + 15) >> 4):
            count = min(channels - 16 * block, width)
            for row in range(rows):
                x = a[0] + n * a[1] + block * a[2] + row * a[3]
                out = a[4] + n * a[5] + block * a[6] + row * a[7]
                if width == 16:
                    for column in range(columns):
                        value = vector.div(vector.load(x + 64 * column), scale)
                        lanes.store_bytes(out + 16 * column, value, low, high, zero, count)
                else:
                    for column in range(columns):
                        value = vector.div(vector.load_lanes(x + 16 * column, count), scale)
                        lanes.store_few(out + 4 * column, value, low, high, zero, count)


@jit
def _dequantise(a):  # type: ignore[no-untyped-def]
    batch, channels, rows, columns = a[8], a[9], a[10], a[11]
    zero = lanes.splat(a[12])
    scale, _ = bounds_in(a, 13)
    for n in range(batch):
        for block in range((channels + 15) >> 4):
            count = channels - 16 * block
            for row in range(rows):
                x = a[0] + n * a[1] + block * a[2] + row * a[3]
                out = a[4] + n * a[5] + block * a[6] + row * a[7]
                for column in range(columns):
                    value = vector.mul(lanes.floats(lanes.sub(lanes.load_bytes(x + 16 * column), zero)), scale)
                    if count >= 16:
                        vector.store(out + 64 * column, value)
                    else:
                        vector.store_between(out + 64 * column, value, 0, count)


@cache
def _requantise(kind: str) -> Any:
    size = np.dtype(kind).itemsize

    @jit
    def requantise(a):  # type: ignore[no-untyped-def]
        batch, channels, rows, columns = a[4], a[5], a[6], a[7]
        low, high = bounds_in(a, 8)
        zero = lanes.splat(a[9])
        per_channel, step, sources = a[10], a[11], a[12]
        for n in range(batch):
            for block in range((channels + 15) >> 4):
                count = channels - 16 * block
                bias = lanes.load_ints(per_channel + 64 * block)
                factor = vector.load(per_channel + step + 64 * block)
                for row in range(rows):
                    out = a[0] + n * a[1] + block * a[2] + row * a[3]
                    for column in range(columns):
                        total = bias
                        for source in range(13, 13 + 4 * sources, 4):
                            at = a[source] + n * a[source + 1] + block * a[source + 2] + row * a[source + 3]
                            total = lanes.add(total, lanes.load_ints(at + 64 * column))
                        to = out + 16 * size * column
                        if kind == "int32":
                            if count >= 16:
                                lanes.store_ints(to, total)
                            else:
                                lanes.store_ints_between(to, total, count)
                        elif kind == "float32":
                            value = vector.mul(lanes.floats(total), factor)
                            if count >= 16:
                                vector.store(to, value)
                            else:
                                vector.store_between(to, value, 0, count)
                        else:
                            lanes.store_bytes(to, vector.mul(lanes.floats(total), factor), low, high, zero, count)

    return requantise


__all__ = [
    "bind_add",
    "bind_dequantise",
    "bind_multiply",
    "bind_quantise",
    "bind_requantise",
    "bind_rescale",
    "bind_table",
]
