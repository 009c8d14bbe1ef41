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
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from functools import cache
from typing import Any, Protocol

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fogconv.ir.precision.elements import ELEMENT_BYTES, Element
from fogconv.kernels.codegen import emit as v
from fogconv.kernels.codegen.emit import I64, Builder, Value
from fogconv.kernels.codegen.isa import Isa
from fogconv.kernels.codegen.jit import ready
from fogconv.kernels.codegen.native.functions import call_native, native_function
from fogconv.kernels.codegen.quads import QUAD, folded, quad_steps, spread


@dataclass(frozen=True, slots=True)
class Tile:
    """The shape of one micro-kernel. ``step`` is the distance in floats between the inputs of neighbouring columns."""

    rows: int
    columns: int
    vectors: int
    step: int
    vl: int
    fused: bool = True
    unroll: int = 4
    by_lane: bool = False
    """Load vl input channels at once and multiply by lane: aarch64 has this instead of broadcasts from memory."""
    few: tuple[int, int] = (0, 0)
    """(lanes, taps) of the only part where the input has just a few channels: a kernel row is then unrolled whole."""
    prefetch: bool = False
    """For kernels of 1×1: fetch the inputs of the tile that starts at ``ahead``, a pixel per input channel."""
    coming: int = 0
    """Lines of the weights at ``ahead`` that are fetched per product: those of the next output channels, where the inputs
    are not fetched. In a network they come from the third-level cache or from memory, as every layer's do."""
    tight: bool = False
    """Whether ``few`` lanes end where the memory may end: no vector is then loaded that reaches further."""
    quads: bool = False
    """Every vector is 4 output channels × 4 input channels; up to 3 vectors, stored with zeros behind them as a block."""
    weights: Element = "fp32"
    """What the weights consist of; those of 16 bits become floats as they are loaded. Quads are of fp32."""

    @property
    def pixels(self) -> int:
        return self.rows * self.columns


class Field(IntEnum):
    """The integers that a tile reads; strides are bytes."""

    FULL_BLOCKS = 0
    FULL_OFFSET = 1
    BLOCK_STRIDE = 2
    KERNEL_ROWS = 3
    KERNEL_ROW_STRIDE = 4
    RUNS = 5
    RUN_STRIDE = 6
    RUN_ROUNDS = 7
    PARTS = 8
    PART_OFFSET = 9
    PART_LANES = 10
    SECOND_PART_OFFSET = 11
    SECOND_PART_LANES = 12
    TAPS = 13
    TAP_STRIDE = 14
    ROW_STRIDE = 15
    OUT_BLOCK_STRIDE = 16
    OUT_ROW_STRIDE = 17
    RESIDUAL_BLOCK_STRIDE = 18
    RESIDUAL_ROW_STRIDE = 19
    FLAGS = 20
    CLAMP = 21
    """Two floats: the lower and the upper bound."""
    ZERO = 22
    """What bytes stand for 0 (see `fogconv.kernels.quantized.numbers`)."""


FIELDS = 24


class Flag(IntFlag):
    """What is done with the sums before they are stored."""

    RESIDUAL = 1
    FLOOR = 2
    CEILING = 4


LINE = 64
"""Bytes of a line of the caches."""

ARGUMENTS = 7
"""tile(fields, x, weights, bias, out, residual, ahead): addresses."""


@cache
def tile_address(tile: Tile, element: Element = "fp32", pairs: bool = False) -> int:
    """The machine address of the compiled micro-kernel, whose results are of this element; compiled or loaded on first use.
    ``pairs``: of inputs and weights in bf16, see `Pairs`."""
    return native_function(_emit_floats, tile, element, pairs, arguments=ARGUMENTS)


def _emit_floats(builder: Builder, tile: Tile, element: Element, pairs: bool, *addresses: Value) -> None:
    numbers = Pairs(tile.fused, element) if pairs else Floats(tile.fused, element)
    emit_tile(builder, tile, *addresses, arithmetic=numbers)


def function_address(dispatcher: Any, signature: Any) -> int:
    """Where the code of a compiled function starts (numba's own calling convention); 0 where it is not `ready`."""
    if not ready(dispatcher, signature):
        return 0
    result = dispatcher.overloads[signature.args]
    return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))


def _call_tile(
    typing: Any, address: Any, fields: Any, x: Any, weights: Any, bias: Any, out: Any, residual: Any, ahead: Any
) -> Any:
    """Call a micro-kernel by its address."""
    signature = types.void(*[types.int64] * 8)

    def code(context: Any, builder: Builder, signature: Any, args: Sequence[Value]) -> Value:
        call_native(builder, args[0], args[1:])
        return context.get_dummy_value()

    return signature, code


call_tile: Any = intrinsic(_call_tile)


def call_address(context: Any, builder: Builder, signature: Any, args: Sequence[Value]) -> None:
    """Call the function at the address args[0], which was compiled for ``signature``, with the other args."""
    convention = context.call_conv
    function_type = convention.get_function_type(types.none, signature.args)
    callee = builder.inttoptr(args[0], function_type.as_pointer())
    convention.call_function(builder, callee, types.none, signature.args, args[1:])


class Arithmetic(Protocol):
    """What a tile does with 32 bits of input, of weights and of sums: `Floats`, or four bytes at once
    (`fogconv.kernels.quantized.arithmetic`). A frozen dataclass, so that the code of two can be distinguished by it."""

    def start(self, builder: Builder, bias: Value, vl: int, offset: int) -> Value:
        """A vector of sums before the first product."""
        ...

    def held(self, builder: Builder, value: Value) -> Value:
        """A vector of inputs, made ready for `product`."""
        ...

    def product(self, builder: Builder, value: Value, weight: Value, total: Value) -> Value:
        """total + value · weight, lane by lane."""
        ...

    def finish(
        self, builder: Builder, tile: Tile, fields: Value, bias: Value, sums: list[Value], out: Value, residual: Value
    ) -> None:
        """Store the sums [pixel][vector] as what the layer gives."""
        ...

    @property
    def out_bytes(self) -> int:
        """Bytes of one output."""
        ...


@dataclass(frozen=True, slots=True)
class Floats:
    """Sums in fp32: residual and clamp are applied before the store. ``element``: of the result, and of the residual."""

    fused: bool
    element: Element = "fp32"

    @property
    def out_bytes(self) -> int:
        return ELEMENT_BYTES[self.element]

    def start(self, builder: Builder, bias: Value, vl: int, offset: int) -> Value:
        return v.load(builder, bias, vl, offset, align=4 * vl)

    def held(self, builder: Builder, value: Value) -> Value:
        return value

    def product(self, builder: Builder, value: Value, weight: Value, total: Value) -> Value:
        return v.fma(builder, value, weight, total, self.fused)

    def finish(
        self, builder: Builder, tile: Tile, fields: Value, bias: Value, sums: list[Value], out: Value, residual: Value
    ) -> None:
        emit_finish(builder, tile, fields, sums, out, residual, self.element)


@dataclass(frozen=True, slots=True)
class Pairs(Floats):
    """The same of words of two numbers of bf16: AVX512-BF16's vdpbf16ps adds both products to a sum of fp32.

    Products of bf16 are exact in fp32; each addition rounds once, to the nearest. Denormals count as 0.
    """

    def product(self, builder: Builder, value: Value, weight: Value, total: Value) -> Value:
        words = ir.VectorType(v.I32, total.type.count)
        name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * total.type.count}"
        module = builder.module
        signature = ir.FunctionType(total.type, [total.type, words, words])
        function = module.globals.get(name) or ir.Function(module, signature, name)
        return builder.call(function, [total, builder.bitcast(value, words), builder.bitcast(weight, words)])


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


def emit_finish(
    builder: Builder,
    tile: Tile,
    fields: Value,
    sums: list[Value],
    out: Value,
    residual: Value,
    element: Element = "fp32",
) -> None:
    """Residual, clamp, store. ``element``: of the residual and of what is stored."""
    size = ELEMENT_BYTES[element]
    flags = v.load_i64(builder, fields, Field.FLAGS)

    def add(now: Sequence[Value]) -> list[Value]:
        strides = Field.RESIDUAL_BLOCK_STRIDE, Field.RESIDUAL_ROW_STRIDE
        return [
            builder.fadd(value, v.load_as(builder, base, tile.vl, offset, element))
            for value, (base, offset) in zip(now, places(builder, tile, fields, residual, size, strides), strict=True)
        ]

    def bound(number: int, clamp: Any) -> Any:
        def body(now: Sequence[Value]) -> list[Value]:
            limit = v.splat(builder, v.load_f32(builder, fields, 8 * Field.CLAMP + 4 * number), tile.vl)
            return [clamp(builder, limit, value) for value in now]

        return body

    def wanted(flag: Flag) -> Value:
        return builder.icmp_unsigned("!=", builder.and_(flags, I64(int(flag))), I64(0))

    sums = v.when(builder, wanted(Flag.RESIDUAL), sums, add)
    sums = v.when(builder, wanted(Flag.FLOOR), sums, bound(0, v.maximum))
    sums = v.when(builder, wanted(Flag.CEILING), sums, bound(1, v.minimum))
    for value, (base, offset) in zip(sums, places(builder, tile, fields, out, size), strict=True):
        v.store_as(builder, value, base, offset, element)


def places(
    builder: Builder,
    tile: Tile,
    fields: Value,
    base: Value,
    size: int = 4,
    strides: tuple[Field, Field] = (Field.OUT_BLOCK_STRIDE, Field.OUT_ROW_STRIDE),
) -> list[tuple[Value, int]]:
    """For each (pixel, vector) of a tile: an address and a constant offset. ``size``: bytes per element; ``strides``: the
    fields that hold the bytes from block to block and from row to row."""
    per_block = 16 // tile.vl
    over, down = (v.load_i64(builder, fields, which) for which in strides)
    found: list[tuple[Value, int]] = []
    row = base
    for r in range(tile.rows):
        row = v.shifted(builder, row, down) if r else row
        blocks = [row]
        for _ in range(1, -(-tile.vectors // per_block)):
            blocks.append(v.shifted(builder, blocks[-1], over))
        for column in range(tile.columns):
            found += [
                (blocks[n // per_block], size * (16 * column + tile.vl * (n % per_block))) for n in range(tile.vectors)
            ]
    return found


def make_tile(
    isa: Isa,
    rows: int,
    columns: int,
    vectors: int,
    step: int,
    vl: int,
    few: tuple[int, int] = (0, 0),
    prefetch: bool = False,
    tight: bool = False,
    weights: Element = "fp32",
    coming: int = 0,
) -> Tile:
    """The tile in the instruction set's preferred form. ``vl``: output channels per vector, 4 for quads."""
    by_lane, quads = isa.name == "neon", vl < isa.vector_length
    return Tile(
        *(rows, columns, vectors, step, isa.vector_length, isa.fused),
        by_lane=by_lane,
        few=few,
        prefetch=prefetch,
        tight=tight,
        quads=quads,
        weights=weights,
        coming=0 if by_lane or quads or prefetch or few[0] else coming,
    )


def clamp_bounds(low: float, high: float) -> int:
    """Two floats as the integer that ``Field.CLAMP`` holds."""
    import numpy as np

    return int(np.array([low, high], np.float32).view(np.int64)[0])


__all__ = [
    "FIELDS",
    "Arithmetic",
    "Field",
    "Flag",
    "Tile",
    "call_tile",
    "clamp_bounds",
    "emit_finish",
    "emit_tile",
    "function_address",
    "make_tile",
    "places",
    "tile_address",
]
