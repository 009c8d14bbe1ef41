"""Narrow maps: up to 4 channels, 4 lanes per pixel instead of 16. A network's first layer reads them.

With 3 of 16 lanes in use every pixel of an image would be a cache line, and reading it would take longer than the first
convolution's arithmetic (3×299×299, 32 filters of 3×3: 0.68 ms on 16 lanes, 0.38 ms on 4; torch takes 0.44 ms).

Packing interleaves up to 4 runs of 16 pixels in registers:

    a0 a1 a2 …     b0 b1 b2 …     c0 c1 c2 …       →      a0 b0 c0 0  a1 b1 c1 0  a2 …
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba.core import types

from fogconv.ir.geometry import BLOCK, NARROW
from fogconv.kernels.codegen import activation, vector
from fogconv.kernels.codegen.jit import jit

ROUNDS = 2
"""Each round of interleaving turns a value's index (lane, pixel) by one bit: 2 of 6 to (pixel, lane), 4 more back again."""


@cache
def _interleave(channels: int) -> Any:
    """interleave(source, step, target): 16 pixels of each channel, ``step`` bytes apart, to 4 vectors of 4 pixels each."""

    @vector.intrinsic
    def interleave(typingctx: Any, source: Any, step: Any, target: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source, step, target = args
            word = source.type
            runs = [vector.emit_load(builder, builder.add(source, builder.mul(step, word(k)))) for k in range(channels)]
            runs += [activation.constant(runs[0].type, 0.0)] * (NARROW - channels)
            for k, run in enumerate(_turned(builder, runs, ROUNDS)):
                vector.emit_store(builder, builder.add(target, word(64 * k)), run)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 3), codegen

    return interleave


@cache
def _separate(channels: int) -> Any:
    """separate(source, target, step): the inverse."""

    @vector.intrinsic
    def separate(typingctx: Any, source: Any, target: Any, step: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source, target, step = args
            word = source.type
            runs = [vector.emit_load(builder, builder.add(source, word(64 * k))) for k in range(NARROW)]
            for k, run in enumerate(_turned(builder, runs, 6 - ROUNDS)[:channels]):
                vector.emit_store(builder, builder.add(target, builder.mul(step, word(k))), run)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 3), codegen

    return separate


def _turned(builder: Any, runs: list[Any], rounds: int) -> list[Any]:
    for _ in range(rounds):
        pairs = zip(runs[: NARROW // 2], runs[NARROW // 2 :], strict=True)
        runs = [vector.emit_interleave(builder, low, high, half) for low, high in pairs for half in (0, 1)]
    return runs


@cache
def pack(channels: int) -> Any:
    """NCHW → narrow, on the numbers of `fogconv.kernels.maps.transpose`; the lanes beyond the last channel become 0."""
    interleave = _interleave(channels)

    @jit
    def pack_narrow(a):  # type: ignore[no-untyped-def]
        narrow, n_image, n_row, plain, p_image, p_channel = a[0], a[1], a[3], a[4], a[5], a[6]
        batch, rows, columns, scratch = a[7], a[9], a[10], a[11]
        for n in range(batch):
            for row in range(rows):
                source = plain + n * p_image + row * columns * 4
                target = narrow + n * n_image + row * n_row
                for column in range(0, columns & -BLOCK, BLOCK):
                    interleave(source + column * 4, p_channel, target + column * 16)
                rest = columns & -BLOCK
                if rest < columns:
                    for lane in range(channels):
                        value = vector.load_lanes(source + rest * 4 + lane * p_channel, columns - rest)
                        vector.store(scratch + lane * 64, value)
                    interleave(scratch, 64, scratch + 256)
                    for column in range(rest, columns, 4):
                        value = vector.load(scratch + 256 + (column - rest) * 16)
                        vector.store_lanes(target + column * 16, value, min(16, 4 * (columns - column)))

    return pack_narrow


@cache
def unpack(channels: int) -> Any:
    """Narrow → NCHW, on the same numbers."""
    separate = _separate(channels)

    @jit
    def unpack_narrow(a):  # type: ignore[no-untyped-def]
        narrow, n_image, n_row, plain, p_image, p_channel = a[0], a[1], a[3], a[4], a[5], a[6]
        batch, rows, columns, scratch = a[7], a[9], a[10], a[11]
        for n in range(batch):
            for row in range(rows):
                source = narrow + n * n_image + row * n_row
                target = plain + n * p_image + row * columns * 4
                for column in range(0, columns & -BLOCK, BLOCK):
                    separate(source + column * 16, target + column * 4, p_channel)
                rest = columns & -BLOCK
                if rest < columns:
                    for column in range(rest, columns, 4):
                        value = vector.load_lanes(source + column * 16, min(16, 4 * (columns - column)))
                        vector.store(scratch + (column - rest) * 16, value)
                    separate(scratch, scratch + 256, 64)
                    for lane in range(channels):
                        value = vector.load(scratch + 256 + lane * 64)
                        vector.store_lanes(target + rest * 4 + lane * p_channel, value, columns - rest)

    return unpack_narrow


@cache
def extract(store: Any, size: int) -> Any:
    """Narrow → a payload of elements of ``size`` bytes, on the numbers of `fogconv.kernels.maps.wire.bind_extract`."""

    @jit
    def extract_narrow(a):  # type: ignore[no-untyped-def]
        source, s_image, s_row, out = a[0] + a[9] * 4, a[1], a[3], a[4]
        batch, lanes, rows, columns = a[5], a[6], a[7], a[8]
        for n in range(batch):
            for row in range(rows):
                start = source + n * s_image + row * s_row
                for pixel in range(start, start + columns * 16, 16):
                    store(out, vector.load_lanes(pixel, lanes), lanes)
                    out += lanes * size

    return extract_narrow


@cache
def insert(load: Any, size: int, accumulate: bool) -> Any:
    """A payload → narrow, on the numbers of `fogconv.kernels.maps.wire.bind_insert`."""

    @jit
    def insert_narrow(a):  # type: ignore[no-untyped-def]
        target, t_image, t_row, payload = a[0] + a[9] * 4, a[1], a[3], a[4]
        batch, lanes, rows, columns = a[5], a[6], a[7], a[8]
        for n in range(batch):
            for row in range(rows):
                start = target + n * t_image + row * t_row
                for pixel in range(start, start + columns * 16, 16):
                    value = load(payload, lanes)
                    if accumulate:
                        value = vector.add(vector.load_lanes(pixel, lanes), value)
                    vector.store_lanes(pixel, value, lanes)
                    payload += lanes * size

    return insert_narrow
