"""The micro-kernel: one tile of output pixels × output channels, summed entirely in registers.

    for each block of 16 input channels, kernel row, kernel column, channel:          (K)
        out[pixel, vector] += x[pixel, k] · w[k, vector]      pixel < rows·columns, vector < vectors

One builder emits it for every instruction set: ``vl`` floats per vector, ``vectors`` vectors of output channels, the pixels
of the tile fixed, all strides and counts read from an array of integers (``Field``). The input value is broadcast, the
weights are stored in the order in which they are read, the sum starts with the bias, and residual and clamp are applied
before the only store.

A partial block of input channels (21 = 16 + 5) is summed lane by lane, so that nothing beyond the last channel is read.

The last output channels of a map may be summed as quads: see `fogconv.kernels.codegen.quads`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from fogconv.ir.precision.elements import ELEMENT_BYTES, Element
from fogconv.kernels.codegen import emit as v
from fogconv.kernels.codegen.emit import I64, Builder, Value
from fogconv.kernels.codegen.native.functions import native_function
from fogconv.kernels.codegen.quads import QUAD, folded, quad_steps, spread
from fogconv.kernels.codegen.tile.arithmetic import Arithmetic, Floats
from fogconv.kernels.codegen.tile.fields import ARGUMENTS, LINE, Field
from fogconv.kernels.codegen.tile.pairs import Pairs
from fogconv.kernels.codegen.tile.results import places
from fogconv.kernels.codegen.tile.tile import Tile


@cache
def tile_address(tile: Tile, element: Element = "fp32", pairs: bool = False) -> int:
    """The machine address of the compiled micro-kernel, whose results are of this element; compiled or loaded on first use.
    ``pairs``: of inputs and weights in bf16, see `Pairs`."""
    return native_function(_emit_floats, tile, element, pairs, arguments=ARGUMENTS)


def _emit_floats(builder: Builder, tile: Tile, element: Element, pairs: bool, *addresses: Value) -> None:
    numbers = Pairs(tile.fused, element) if pairs else Floats(tile.fused, element)
    emit_tile(builder, tile, *addresses, arithmetic=numbers)


def emit_tile(
    builder: Builder,
    tile: Tile,
    fields: Value,
    x: Value,
    weights: Value,
    bias: Value,
    out: Value,
    residual: Value,
    ahead: Value,
    *,
    arithmetic: Arithmetic | None = None,
) -> None:
    """Emit the code of one tile. Weights are [k][vector][lane], bias [vector][lane]; see ``Field`` for the rest."""
    numbers = arithmetic or Floats(tile.fused)
    vl, nv = tile.vl, tile.vectors
    weight_bytes = ELEMENT_BYTES[tile.weights]

    def weight(weights: Value, number: int) -> Value:
        """The ``number``-th vector of weights from an address on."""
        return v.load_as(builder, weights, vl, weight_bytes * vl * number, tile.weights)

    def field(which: Field) -> Value:
        return v.load_i64(builder, fields, which)

    def steps(channels: int) -> int:
        return quad_steps(channels) if tile.quads else channels

    row_stride = field(Field.ROW_STRIDE)

    def products(
        sums: Sequence[Value], x: Value, weights: Value, ahead: Value, channels: int, first: int = 0
    ) -> list[Value]:
        """sums += x · weights over some adjacent input channels."""
        if tile.quads:
            return quad_products(sums, x, weights, ahead, channels, first)
        if tile.by_lane and (channels % vl == 0 or tile.few[0] == channels):
            return lane_products(sums, x, weights, ahead, channels, first)
        sums = list(sums)
        rows = [x]
        for _ in range(1, tile.rows):
            rows.append(v.shifted(builder, rows[-1], row_stride))
        for k in range(channels):
            if tile.prefetch:
                v.prefetch(builder, ahead, 4 * tile.step * k)
            for line in range(tile.coming):
                v.prefetch(builder, ahead, LINE * (tile.coming * k + line))
            w = [weight(weights, (first + k) * nv + n) for n in range(nv)]
            for p in range(tile.pixels):
                row, column = divmod(p, tile.columns)
                value = v.splat(builder, v.load_f32(builder, rows[row], 4 * (column * tile.step + k)), vl)
                value = numbers.held(builder, value)
                for n in range(nv):
                    sums[p * nv + n] = numbers.product(builder, value, w[n], sums[p * nv + n])
        return sums

    def lane_products(
        sums: Sequence[Value], x: Value, weights: Value, ahead: Value, channels: int, first: int
    ) -> list[Value]:
        """The same, with vl input channels of a pixel per load. One weight at a time meets all pixels: the sums of 6 × 4
        vectors, 6 inputs and 2 weights fill the registers. LLVM would load a pixel of three channels in two parts, and keep
        the pixels of further taps: `whole` leaves it no choice."""
        sums = list(sums)
        rows = [x]
        for _ in range(1, tile.rows):
            rows.append(v.shifted(builder, rows[-1], row_stride))
        held: list[Value] = []
        back = 0
        for k in range(channels):
            if tile.prefetch:
                v.prefetch(builder, ahead, 4 * tile.step * k)
            if k % vl == 0:
                # The last vector of a tight row starts early, so that it ends with the row, or is short.
                early = max(0, k + vl - channels) if tile.tight else 0
                wide, back = (vl, early) if early <= k else (channels, 0)
                pixels = [
                    (rows[p // tile.columns], 4 * (p % tile.columns * tile.step + k - back)) for p in range(tile.pixels)
                ]
                held = [v.load(builder, row, wide, offset, align=4) for row, offset in pixels]
                if wide < vl:
                    held = [v.pick(builder, value, value, [min(lane, wide - 1) for lane in range(vl)]) for value in held]
                held = [numbers.held(builder, v.whole(builder, value)) for value in held]
            for n in range(nv):
                w = weight(weights, (first + k) * nv + n)
                for p in range(tile.pixels):
                    value = v.lane_splat(builder, held[p], k % vl + back, vl)
                    sums[p * nv + n] = numbers.product(builder, value, w, sums[p * nv + n])
        return sums

    def quad_products(
        sums: Sequence[Value], x: Value, weights: Value, ahead: Value, channels: int, first: int
    ) -> list[Value]:
        """The same, four channels at a time, then one by one, so that nothing beyond the last channel is read."""
        sums = list(sums)
        rows = [x]
        for _ in range(1, tile.rows):
            rows.append(v.shifted(builder, rows[-1], row_stride))
        whole = channels // QUAD * QUAD
        at = 4 * vl * nv * (first // channels) * quad_steps(channels)
        for k in [*range(0, whole, QUAD), *range(whole, channels)]:
            wide = QUAD if k < whole else 1
            if tile.prefetch:
                for ahead_of in range(k, k + wide):
                    v.prefetch(builder, ahead, 4 * tile.step * ahead_of)
            w = [v.load(builder, weights, vl, at + 4 * vl * n, align=4 * vl) for n in range(nv)]
            at += 4 * vl * nv
            for p in range(tile.pixels):
                row, column = divmod(p, tile.columns)
                value = v.load(builder, rows[row], wide, 4 * (column * tile.step + k), align=4)
                value = v.pick(builder, value, v.constant(wide, 0.0), [min(lane % QUAD, wide) for lane in range(vl)])
                for n in range(nv):
                    sums[p * nv + n] = v.fma(builder, value, w[n], sums[p * nv + n], tile.fused)
        return sums

    def channels_loop(count: Value, channels: int, at_least_once: bool, carried: Sequence[Value]) -> list[Value]:
        def body(now: Sequence[Value]) -> list[Value]:
            *sums, x, weights, ahead = now
            sums = products(sums, x, weights, ahead, channels)
            return [
                *sums,
                v.shifted(builder, x, 4 * channels),
                v.shifted(builder, weights, weight_bytes * vl * nv * steps(channels)),
                v.shifted(builder, ahead, LINE * tile.coming * channels if tile.coming else 4 * tile.step * channels)
                if tile.prefetch or tile.coming
                else ahead,
            ]

        return v.loop(builder, count, carried, body, at_least_once)

    def strided(count: Value, stride: Value, carried: Sequence[Value], inner: Any) -> list[Value]:
        """Repeat ``inner``, with x advanced by ``stride`` after each iteration."""

        def body(now: Sequence[Value]) -> list[Value]:
            *_, x, _, before = now
            *sums, _, weights, ahead = inner(now)
            if tile.prefetch:
                ahead = v.shifted(builder, before, stride)
            return [*sums, v.shifted(builder, x, stride), weights, ahead]

        return v.loop(builder, count, carried, body, at_least_once=True)

    def full_blocks(now: Sequence[Value]) -> list[Value]:
        rounds, runs, run_stride = field(Field.RUN_ROUNDS), field(Field.RUNS), field(Field.RUN_STRIDE)
        kernel_rows, kernel_row_stride = field(Field.KERNEL_ROWS), field(Field.KERNEL_ROW_STRIDE)

        def run(now: Sequence[Value]) -> list[Value]:
            return channels_loop(rounds, tile.unroll, True, now)

        def kernel_row(now: Sequence[Value]) -> list[Value]:
            return strided(runs, run_stride, now, run)

        def block(now: Sequence[Value]) -> list[Value]:
            return strided(kernel_rows, kernel_row_stride, now, kernel_row)

        return strided(field(Field.FULL_BLOCKS), field(Field.BLOCK_STRIDE), now, block)

    def parts(now: Sequence[Value]) -> list[Value]:
        kernel_rows, kernel_row_stride = field(Field.KERNEL_ROWS), field(Field.KERNEL_ROW_STRIDE)
        taps, tap_stride = field(Field.TAPS), field(Field.TAP_STRIDE)

        def part(now: Sequence[Value]) -> list[Value]:
            *rest, which = now
            *sums, start, weights, ahead = rest
            lanes = v.load_i64(builder, which, Field.PART_LANES)
            x = v.shifted(builder, start, v.load_i64(builder, which, Field.PART_OFFSET))

            def tap(now: Sequence[Value]) -> list[Value]:
                if not (tile.quads or tile.by_lane):
                    return channels_loop(lanes, 1, True, now)
                now = channels_loop(builder.lshr(lanes, I64(2)), QUAD, False, now)
                return channels_loop(builder.and_(lanes, I64(QUAD - 1)), 1, False, now)

            def kernel_row(now: Sequence[Value]) -> list[Value]:
                return strided(taps, tap_stride, now, tap)

            def short_row(now: Sequence[Value]) -> list[Value]:
                *sums, start, weights, ahead = now
                count, wide = tile.few
                at = start
                for tap in range(wide):
                    sums = products(sums, at, weights, ahead, count, tap * count)
                    at = v.shifted(builder, at, tap_stride)
                return [*sums, start, v.shifted(builder, weights, weight_bytes * vl * nv * steps(count) * wide), ahead]

            if tile.few[0]:
                kernel_row = short_row
            *sums, _, weights, ahead = strided(kernel_rows, kernel_row_stride, [*sums, x, weights, ahead], kernel_row)
            return [*sums, start, weights, ahead, v.shifted(builder, which, 16)]

        *results, _ = v.loop(builder, field(Field.PARTS), [*now, fields], part, at_least_once=True)
        return results

    if tile.few[0]:
        # Little is computed per byte here: prefetch the output's lines and the input of the tile below.
        for base, offset in places(builder, tile, fields, out, numbers.out_bytes):
            if offset % 64 == 0:
                v.prefetch(builder, base, offset, v.WRITE_L1)
        kernel_rows, line_stride = field(Field.KERNEL_ROWS), field(Field.KERNEL_ROW_STRIDE)
        below = v.shifted(builder, x, builder.mul(kernel_rows, line_stride))
        for _ in range(tile.step // 16):
            for line in range(tile.columns * tile.step // 16):
                v.prefetch(builder, below, 64 * line)
            below = v.shifted(builder, below, line_stride)
    if tile.quads:
        start = [spread(builder, vl, v.load(builder, bias, QUAD, 4 * QUAD * n)) for n in range(nv)]
    else:
        start = [numbers.start(builder, bias, vl, 4 * vl * n) for n in range(nv)]
    sums: list[Value] = [start[n] for _ in range(tile.pixels) for n in range(nv)]
    first = v.shifted(builder, x, field(Field.FULL_OFFSET))
    has_blocks = builder.icmp_signed(">", field(Field.FULL_BLOCKS), I64(0))
    *sums, _, weights, ahead = v.when(builder, has_blocks, [*sums, first, weights, ahead], full_blocks)
    has_parts = builder.icmp_signed(">", field(Field.PARTS), I64(0))
    *sums, _, _, _ = v.when(builder, has_parts, [*sums, x, weights, ahead], parts)
    if tile.quads:
        sums, tile = folded(builder, sums, nv), replace(tile, vectors=1)
    numbers.finish(builder, tile, fields, bias, sums, out, residual)
