"""Sums, scales, activations and copies on blocked maps: the operators between the convolutions.

All of these walk a map once and are limited by memory bandwidth. Margins are never written, nor the lanes of the last
block beyond the output's channels: they may belong to a neighbouring part of the same buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from fogconv.errors import KernelError
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import BLOCK
from fogconv.kernels.codegen import formulas, vector
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.maps import copies
from fogconv.kernels.maps.blocked import Blocked, aligned_zeros, blocks
from fogconv.kernels.maps.bound import PIXEL, Bound, address_of, bind, flat, place, same_size, sequence


def bind_add(sources: Sequence[Blocked], out: Blocked, activation: str | None = None) -> Bound:
    """out = activation(sum of the sources), from the first to the last. ``out`` may be one of the first two sources.

    Raises KernelError for no source, and for sources that are not of the output's shape.
    """
    if not sources:
        raise KernelError("a sum needs at least one source")
    if len(sources) == 1:
        return bind_affine(sources[0], out, None, None, activation)
    calls = []
    total = sources[0]
    for number, source in enumerate(sources[1:], 2):
        last = number == len(sources)
        calls.append(bind_affine(total, out, None, None, activation if last else None, source))
        total = out
    return sequence(calls)


def bind_affine(
    x: Blocked,
    out: Blocked,
    scale: Array | None = None,
    shift: Array | None = None,
    activation: str | None = None,
    residual: Blocked | None = None,
) -> Bound:
    """out = activation(x·scale + shift + residual); scale and shift are (C,). ``out`` may be ``x`` or ``residual``.

    Raises KernelError for other shapes than the output's.
    """
    same_size("the input", x, out)
    factors = _lanes("scale", scale, out.channels, 1.0)
    terms = _lanes("shift", shift, out.channels, 0.0)
    return _bind_affine(x, out, factors, (address_of(factors), 0, PIXEL), terms, activation, residual)


def bind_gate(x: Blocked, gate: Blocked, out: Blocked) -> Bound:
    """out = x · gate, the gate being (N, C, 1, 1). Raises KernelError for other shapes."""
    same_size("the input", x, out)
    shape, wanted = (gate.batch, gate.channels, gate.height, gate.width), (out.batch, out.channels, 1, 1)
    if shape != wanted:
        raise KernelError(f"the gate is {shape}; it must be {wanted}")
    at = place("gate", gate)
    terms = _lanes("shift", None, out.channels, 0.0)
    return _bind_affine(x, out, gate, (at.address, at.image, at.block), terms, None, None)


def bind_shift_copy(
    source: Blocked, source_channel: int, out: Blocked, out_channel: int, channels: int, accumulate: bool = False
) -> Bound:
    """Channels ``out_channel``… of the output = (or +=) ``channels`` channels of the source from ``source_channel`` on.

    Channels count from each view's first lane and need not be aligned to each other. Raises KernelError where the
    channels do not lie inside both views, or where batch, rows or columns differ.
    """
    if (source.batch, source.height, source.width) != (out.batch, out.height, out.width):
        _unequal(source, out)
    for name, first, view in (("source", source_channel, source), ("output", out_channel, out)):
        if channels < 0 or first < 0 or first + channels > view.channels:
            raise KernelError(f"channels {first} to {first + channels} do not lie inside the {name}'s {view.channels}")
    if channels == 0:
        return sequence(())
    if source.data.dtype != np.float32:
        return copies.bind_copy(source, source_channel, out, out_channel, channels, accumulate)
    a, b = place("source", source), place("output", out)
    rows, columns = flat(out.height, out.width, a, b)
    start = out_channel % BLOCK
    shift = (source_channel - out_channel) % BLOCK
    # The source block that lane 0 of the first output block would come from: it may be block −1.
    source_block = (source_channel - start) // BLOCK
    numbers = (
        *(a.address, a.image, a.block, a.row),
        *(b.address + out_channel // BLOCK * b.block, b.image, b.block, b.row),
        *(out.batch, rows, columns, shift, start, channels, source_block, blocks(source_channel + channels) - 1),
    )
    return bind(_copy(shift != 0, accumulate), numbers, source.data, out.data)


def bind_permute(source: Blocked, out: Blocked, channels: Sequence[int]) -> Bound:
    """Channel k of the output = channel ``channels[k]`` of the source. Raises KernelError for channels that don't exist."""
    if (source.batch, source.height, source.width) != (out.batch, out.height, out.width):
        _unequal(source, out)
    if len(channels) != out.channels or (channels and not 0 <= min(channels) <= max(channels) < source.channels):
        least, most = min(channels, default=0), max(channels, default=0)
        raise KernelError(
            f"{len(channels)} channels between {least} and {most} can't be picked from {source.channels} "
            f"for an output of {out.channels}"
        )
    if source.data.dtype != np.float32:
        return copies.bind_permute(source, out, channels)
    a, b = place("source", source), place("output", out)
    rows, columns = flat(out.height, out.width, a, b)
    offsets = [channel // BLOCK * a.block + channel % BLOCK * 4 for channel in channels]
    numbers = (*a[:2], a.row, *b, out.batch, out.channels, rows, columns, *offsets)
    return bind(_permute, numbers, source.data, out.data)


def _bind_affine(
    x: Blocked,
    out: Blocked,
    factors: object,
    scale: tuple[int, int, int],
    terms: Array,
    activation: str | None,
    residual: Blocked | None,
) -> Bound:
    chosen = formulas.activation(activation)
    lanes = formulas.lanes(() if chosen is None else chosen.parameters)
    a, b = place("input", x), place("output", out)
    r = place("residual", residual) if residual is not None else b
    if residual is not None:
        same_size("the residual", residual, out)
    rows, columns = flat(out.height, out.width, a, b, r)
    numbers = (*a, *b, *r, *scale, address_of(terms), out.batch, out.channels, rows, columns, address_of(lanes))
    kept = residual.data if residual is not None else None
    kernel = _affine(None if chosen is None else chosen.name, residual is not None)
    return bind(kernel, numbers, x.data, out.data, factors, terms, kept, lanes)


def _lanes(name: str, values: Array | None, channels: int, default: float) -> Array:
    """Values per channel in whole blocks, the lanes beyond the channels 0."""
    lanes = aligned_zeros((blocks(channels) * BLOCK,))
    if values is None:
        lanes[:channels] = default
        return lanes
    if values.shape != (channels,):
        raise KernelError(f"the {name} has the shape {values.shape}; the map has {channels} channels")
    lanes[:channels] = values
    return lanes


def _unequal(source: Blocked, out: Blocked) -> Any:
    a = (source.batch, source.channels, source.height, source.width)
    b = (out.batch, out.channels, out.height, out.width)
    raise KernelError(f"a source of {a} can't be copied into an output of {b}")


@cache
def _affine(activation: str | None, has_residual: bool) -> Any:
    """The loop for one activation."""
    apply = formulas.applied(activation)

    @jit
    def affine(a):  # type: ignore[no-untyped-def]
        x, x_image, x_block, x_row = a[0], a[1], a[2], a[3]
        out, out_image, out_block, out_row = a[4], a[5], a[6], a[7]
        residual, r_image, r_block, r_row = a[8], a[9], a[10], a[11]
        scale, s_image, s_block, shift = a[12], a[13], a[14], a[15]
        batch, channels, rows, columns = a[16], a[17], a[18], a[19]
        p0, p1, p2 = vector.load(a[20]), vector.load(a[20] + 64), vector.load(a[20] + 128)
        for n in range(batch):
            for block in range((channels + 15) >> 4):
                factor = vector.load(scale + n * s_image + block * s_block)
                term = vector.load(shift + block * 64)
                lanes = channels - block * 16
                for row in range(rows):
                    source = x + n * x_image + block * x_block + row * x_row
                    target = out + n * out_image + block * out_block + row * out_row
                    other = residual + n * r_image + block * r_block + row * r_row
                    if lanes >= 16:
                        for p in range(0, columns * 64, 64):
                            value = vector.fma(vector.load(source + p), factor, term)
                            if has_residual:
                                value = vector.add(value, vector.load(other + p))
                            vector.store(target + p, apply(value, value, p0, p1, p2))
                    else:
                        for p in range(0, columns * 64, 64):
                            value = vector.fma(vector.load(source + p), factor, term)
                            if has_residual:
                                value = vector.add(value, vector.load(other + p))
                            vector.store_between(target + p, apply(value, value, p0, p1, p2), 0, lanes)

    return affine


@cache
def _copy(unaligned: bool, accumulate: bool) -> Any:
    @jit
    def copy(a):  # type: ignore[no-untyped-def]
        source, s_image, s_block, s_row = a[0], a[1], a[2], a[3]
        out, out_image, out_block, out_row = a[4], a[5], a[6], a[7]
        batch, rows, columns, shift = a[8], a[9], a[10], a[11]
        start, channels, first, last = a[12], a[13], a[14], a[15]
        for n in range(batch):
            for block in range((start + channels + 15) >> 4):
                # Lanes `low` to `high` of this output block are written.
                low = max(0, start - block * 16)
                high = min(16, start + channels - block * 16)
                whole = high - low == 16
                # They lie in one source block or in two; one that holds none of them may not exist.
                lower = max(first + block, 0)
                upper = min(first + block + 1, last)
                for row in range(rows):
                    base = source + n * s_image + row * s_row
                    one, two = base + lower * s_block, base + upper * s_block
                    target = out + n * out_image + block * out_block + row * out_row
                    for p in range(0, columns * 64, 64):
                        value = vector.load(one + p)
                        if unaligned:
                            value = vector.align(value, vector.load(two + p), shift)
                        if accumulate:
                            value = vector.add(vector.load(target + p), value)
                        if whole:
                            vector.store(target + p, value)
                        else:
                            vector.store_between(target + p, value, low, high)

    return copy


@jit
def _permute(a):  # type: ignore[no-untyped-def]
    source, s_image, s_row = a[0], a[1], a[2]
    out, out_image, out_block, out_row = a[3], a[4], a[5], a[6]
    batch, channels, rows, columns = a[7], a[8], a[9], a[10]
    for n in range(batch):
        for block in range((channels + 15) >> 4):
            for row in range(rows):
                # Lane by lane along a row: the row stays in the first cache for all sixteen.
                for lane in range(min(16, channels - block * 16)):
                    one = source + n * s_image + row * s_row + a[11 + block * 16 + lane]
                    target = out + n * out_image + block * out_block + row * out_row + lane * 4
                    for p in range(0, columns * 64, 64):
                        vector.store_word(target + p, vector.load_word(one + p))
