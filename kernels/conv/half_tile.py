"""The micro-kernel on fp16: a tile of pixels × 16 output channels, for CPUs that add products of fp16 eight at a time.

    8 sums of fp16     each takes up to `FLUSHED` products (fmla .8h by one lane of the input)
    16 sums of fp32    take those sums, which start again from 0; they begin with the bias

A sum of n products in fp16 is off by at most γ = n·u / (1 − n·u) of the sum of their absolute values, u = 2⁻¹¹ (Higham,
Accuracy and Stability of Numerical Algorithms, 3.1). With n ≤ `FLUSHED` = 96 that is 4.9 %, whatever the depth: additions
in fp32 add K·2⁻²⁴ only. It is a bound for the worst case: roundings mostly cancel, to about √n·u. A sum of so many products
must stay below 65504.

Fields, weights and the order of sums are those of `fogconv.kernels.codegen.microkernel`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from llvmlite import ir

from fogconv.ir.geometry import BLOCK
from fogconv.ir.precision.elements import Element
from fogconv.kernels.codegen import emit as v
from fogconv.kernels.codegen.emit import I32, I64, Builder, Value
from fogconv.kernels.codegen.native.functions import native_function
from fogconv.kernels.codegen.tile.fields import ARGUMENTS, Field, Flag
from fogconv.kernels.codegen.tile.results import emit_finish, places
from fogconv.kernels.codegen.tile.tile import Tile

FLUSHED = 96
"""The most products of one sum of fp16: two rows of a 3×3 kernel over a block of channels, or six blocks of a 1×1."""

LANES = 8
PIXELS = 4
"""The most pixels of a tile: their sums in fp16 and in fp32, inputs and weights fill 30 registers."""

HALF = ir.HalfType()
HALVES = ir.VectorType(HALF, LANES)


@dataclass(frozen=True, slots=True)
class HalfTile:
    """``step``: the distance in fp16 between the inputs of neighbouring columns. ``element``: of the result, and of the
    residual."""

    rows: int
    columns: int
    step: int
    element: Element

    @property
    def pixels(self) -> int:
        return self.rows * self.columns


@cache
def half_tile_address(tile: HalfTile) -> int:
    """The machine address of the compiled micro-kernel; compiled or loaded on first use."""
    return native_function(emit_half_tile, tile, arguments=ARGUMENTS)


def emit_half_tile(builder: Builder, tile: HalfTile, *addresses: Value) -> None:
    """Emit the code of one tile, whose arguments are those of every micro-kernel."""
    fields, x, weights, bias, out, residual, _ = addresses
    per_pixel = BLOCK // LANES
    count = tile.pixels * per_pixel
    zero = ir.Constant(HALVES, [0.0] * LANES)

    def field(which: Field) -> Value:
        return v.load_i64(builder, fields, which)

    row_stride = field(Field.ROW_STRIDE)

    def pixels_at(x: Value) -> list[tuple[Value, int]]:
        rows = [x]
        for _ in range(1, tile.rows):
            rows.append(v.shifted(builder, rows[-1], row_stride))
        return [(rows[p // tile.columns], 2 * (p % tile.columns) * tile.step) for p in range(tile.pixels)]

    def products(sums: Sequence[Value], x: Value, weights: Value, channels: int) -> list[Value]:
        """The sums of fp16, first in ``sums``, += x · weights over some adjacent input channels."""
        sums = list(sums)
        held: list[Value] = []
        for k in range(channels):
            if k % LANES == 0:
                wide = min(LANES, channels - k)
                held = [_load(builder, row, wide, offset + 2 * k, 2) for row, offset in pixels_at(x)]
            for n in range(per_pixel):
                w = _load(builder, weights, LANES, 2 * (BLOCK * k + LANES * n), 16)
                for p in range(tile.pixels):
                    lanes = ir.Constant(ir.VectorType(I32, LANES), [k % LANES] * LANES)
                    value = builder.shuffle_vector(held[p], ir.Constant(held[p].type, ir.Undefined), lanes)
                    sums[p * per_pixel + n] = _fma(builder, value, w, sums[p * per_pixel + n])
        return sums

    def flushed(sums: Sequence[Value]) -> list[Value]:
        """All sums of fp16 added to those of fp32."""
        halves, floats = sums[:count], list(sums[count:])
        for number, half in enumerate(halves):
            wide = builder.fpext(half, v.vector(LANES))
            for part in range(2):
                lanes = range(4 * part, 4 * part + 4)
                at = 2 * number + part
                floats[at] = builder.fadd(floats[at], v.pick(builder, wide, wide, lanes))
        return [zero] * count + floats

    def channels_loop(rounds: Value, channels: int, at_least_once: bool, carried: Sequence[Value]) -> list[Value]:
        def body(now: Sequence[Value]) -> list[Value]:
            *sums, x, weights = now
            sums = products(sums, x, weights, channels)
            return [*sums, v.shifted(builder, x, 2 * channels), v.shifted(builder, weights, 2 * BLOCK * channels)]

        return v.loop(builder, rounds, carried, body, at_least_once)

    def strided(rounds: Value, stride: Value, carried: Sequence[Value], inner: Any) -> list[Value]:
        def body(now: Sequence[Value]) -> list[Value]:
            *_, x, _ = now
            *sums, _, weights = inner(now)
            return [*sums, v.shifted(builder, x, stride), weights]

        return v.loop(builder, rounds, carried, body, at_least_once=True)

    def full_blocks(now: Sequence[Value]) -> list[Value]:
        """Runs of 16·n products, with a flush as often as that is needed: a counter of products is carried with the
        sums."""
        run_rounds, run_stride, runs = field(Field.RUN_ROUNDS), field(Field.RUN_STRIDE), field(Field.RUNS)
        kernel_rows, kernel_row_stride = field(Field.KERNEL_ROWS), field(Field.KERNEL_ROW_STRIDE)
        each = builder.mul(run_rounds, I64(LANES))

        def run(now: Sequence[Value]) -> list[Value]:
            *sums, done, x, weights = now
            *sums, x, weights = channels_loop(run_rounds, LANES, True, [*sums, x, weights])
            done = builder.add(done, each)
            full = builder.icmp_signed(">", builder.add(done, each), I64(FLUSHED))
            *sums, done = v.when(builder, full, [*sums, done], lambda now: [*flushed(now[:-1]), I64(0)])
            return [*sums, done, x, weights]

        def kernel_row(now: Sequence[Value]) -> list[Value]:
            return strided(runs, run_stride, now, run)

        def block(now: Sequence[Value]) -> list[Value]:
            return strided(kernel_rows, kernel_row_stride, now, kernel_row)

        *sums, x, weights = now
        *sums, done, x, weights = strided(
            field(Field.FULL_BLOCKS), field(Field.BLOCK_STRIDE), [*sums, I64(0), x, weights], block
        )
        sums = v.when(builder, builder.icmp_signed(">", done, I64(0)), sums, flushed)
        return [*sums, x, weights]

    def parts(now: Sequence[Value]) -> list[Value]:
        kernel_rows, kernel_row_stride = field(Field.KERNEL_ROWS), field(Field.KERNEL_ROW_STRIDE)
        taps, tap_stride = field(Field.TAPS), field(Field.TAP_STRIDE)

        def part(now: Sequence[Value]) -> list[Value]:
            *sums, start, weights, which = now
            lanes = v.load_i64(builder, which, Field.PART_LANES)
            x = v.shifted(builder, start, v.load_i64(builder, which, Field.PART_OFFSET))

            def tap(now: Sequence[Value]) -> list[Value]:
                *sums, x, weights = channels_loop(lanes, 1, True, now)
                return [*flushed(sums), x, weights]

            def kernel_row(now: Sequence[Value]) -> list[Value]:
                return strided(taps, tap_stride, now, tap)

            *sums, _, weights = strided(kernel_rows, kernel_row_stride, [*sums, x, weights], kernel_row)
            return [*sums, start, weights, v.shifted(builder, which, 16)]

        *results, _ = v.loop(builder, field(Field.PARTS), [*now, fields], part, at_least_once=True)
        return results

    start = [v.load(builder, bias, 4, 16 * n) for n in range(BLOCK // 4)]
    sums: list[Value] = [zero] * count + start * tile.pixels
    first = v.shifted(builder, x, field(Field.FULL_OFFSET))
    has_blocks = builder.icmp_signed(">", field(Field.FULL_BLOCKS), I64(0))
    *sums, _, weights = v.when(builder, has_blocks, [*sums, first, weights], full_blocks)
    has_parts = builder.icmp_signed(">", field(Field.PARTS), I64(0))
    *sums, _, _ = v.when(builder, has_parts, [*sums, x, weights], parts)
    shape = Tile(tile.rows, tile.columns, BLOCK // 4, tile.step, 4)
    if tile.element == "fp16":
        _finish(builder, shape, fields, sums[count:], out, residual)
    else:
        emit_finish(builder, shape, fields, sums[count:], out, residual, tile.element)


def _finish(builder: Builder, tile: Tile, fields: Value, sums: list[Value], out: Value, residual: Value) -> None:
    """As `emit_finish`, but for clamps in fp16, half as many: rounding keeps the order of numbers, so that it is the same
    before a clamp as after it."""
    flags = v.load_i64(builder, fields, Field.FLAGS)

    def add(now: Sequence[Value]) -> list[Value]:
        strides = Field.RESIDUAL_BLOCK_STRIDE, Field.RESIDUAL_ROW_STRIDE
        return [
            builder.fadd(value, v.load_as(builder, base, tile.vl, offset, "fp16"))
            for value, (base, offset) in zip(now, places(builder, tile, fields, residual, 2, strides), strict=True)
        ]

    def clamp(number: int, name: str) -> Any:
        def body(now: Sequence[Value]) -> list[Value]:
            bound = builder.fptrunc(v.load_f32(builder, fields, 8 * Field.CLAMP + 4 * number), HALF)
            one = builder.insert_element(ir.Constant(HALVES, ir.Undefined), bound, I32(0))
            limit = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(I32, LANES), [0] * LANES))
            return [_call(builder, name, limit, value) for value in now]

        return body

    def wanted(flag: Flag) -> Value:
        return builder.icmp_unsigned("!=", builder.and_(flags, I64(int(flag))), I64(0))

    sums = v.when(builder, wanted(Flag.RESIDUAL), sums, add)
    pairs = zip(sums[::2], sums[1::2], strict=True)
    halves = [builder.fptrunc(v.pick(builder, one, other, range(LANES)), HALVES) for one, other in pairs]
    halves = v.when(builder, wanted(Flag.FLOOR), halves, clamp(0, "llvm.maximum"))
    halves = v.when(builder, wanted(Flag.CEILING), halves, clamp(1, "llvm.minimum"))
    for value, (base, offset) in zip(halves, places(builder, tile, fields, out, 2)[::2], strict=True):
        v.store(builder, value, base, offset, align=2 * LANES)


def _load(builder: Builder, address: Value, lanes: int, offset: int, align: int) -> Value:
    value = builder.load(v.pointer(builder, address, ir.VectorType(HALF, lanes), offset))
    value.align = align
    return value


def _fma(builder: Builder, a: Value, b: Value, c: Value) -> Value:
    """a·b + c. Other CPUs than aarch64's, on which tests run it, round to fp32 first: the same, but for rare ties."""
    if v.cpu_family(builder) == "aarch64":
        return _call(builder, "llvm.fma", a, b, c)
    wide = [builder.fpext(each, v.vector(LANES)) for each in (a, b, c)]
    return builder.fptrunc(v.fma(builder, *wide), HALVES)


def _call(builder: Builder, name: str, *values: Value) -> Value:
    """One of LLVM's functions of vectors of fp16."""
    name += f".v{LANES}f16"
    module = builder.module
    function = module.globals.get(name) or ir.Function(module, ir.FunctionType(HALVES, [HALVES] * len(values)), name)
    return builder.call(function, values)
