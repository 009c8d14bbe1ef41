"""The two micro-kernels of backward convolution, as intrinsics on vectors of 16 floats.

InputTile    gi[pixel, c] = Σ over blocks of f, taps, lanes of go[pixel + tap, f] · w[tap, f, c]  pixels × vectors of c
WeightTile   gw[tap, c, f] = Σ over images, rows, columns of x[pixel + tap, c] · go[pixel, f]     lanes of c × one block of f

Both keep all sums in registers: stack slots that LLVM turns into phis. The shape that fits depends on the registers: a
vector of 16 floats is one of AVX-512's 32, two of AVX2's 16, four of NEON's 32. Slower, as tried: prefetching weights
(half the speed), tiles of one block of channels where two fit (every weight is a load from the second-level cache).
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils as _cgutils
from numba.core import extending, types

from fogconv.ir.geometry import BLOCK
from fogconv.kernels.codegen import activation, vector
from fogconv.kernels.codegen.isa import AVX512, Isa

cgutils: Any = _cgutils  # no annotations in this library

_VEC = ir.VectorType(ir.FloatType(), BLOCK)
_LONG = ir.IntType(64)


class InputTile(NamedTuple):
    """Rows × columns of pixels × blocks of input channels. The rows can also be one row each of several images."""

    rows: int
    columns: int
    vectors: int

    @property
    def pixels(self) -> int:
        return self.rows * self.columns


def input_tiles(isa: Isa) -> tuple[InputTile, ...]:
    """The tiles that fit into the registers, the most efficient first."""
    shapes: tuple[tuple[int, int, int], ...]
    if isa is AVX512:
        shapes = ((1, 14, 2), (2, 7, 2), (1, 8, 3), (2, 4, 3), (1, 28, 1), (2, 14, 1), (4, 7, 1))
    else:
        shapes = ((1, 6, 1), (2, 3, 1))
    return tuple(InputTile(*shape) for shape in shapes)


def weight_lanes(isa: Isa, channels: int) -> int:
    """Input channels per WeightTile: as many as the registers hold, or all where there are fewer (RGB)."""
    return 16 if isa is AVX512 and channels > 8 else 8 if isa is AVX512 and channels > 4 else 4


def _pointer(builder: Any, address: Any, offset: int) -> Any:
    return builder.add(address, _LONG(offset)) if offset else address


@cache
def input_tile(tile: InputTile) -> Any:
    """Arguments: the address of the first pixel and the step to the next row; pairs of offsets (go, w) for each tap and how
    many there are; blocks of f and the steps between them in go and w; w and the step to its next vector; the address
    of the first output, the steps to the next row, column and vector, how many rows and columns are wanted; whether to add.
    """

    @extending.intrinsic
    def run(  # type: ignore[no-untyped-def]
        typingctx,
        go,
        go_row,
        taps,
        count,
        f_blocks,
        go_step,
        w_step,
        w,
        w_vector,
        out,
        out_row,
        out_column,
        out_vector,
        rows,
        columns,
        add,
    ):
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            go, go_row, taps, count, f_blocks, go_step, w_step, w, w_vector, *args = args
            out, out_row, out_column, out_vector, rows, columns, add = args
            pixels = [(row, column) for row in range(tile.rows) for column in range(tile.columns)]
            grid = [(pixel, v) for pixel in pixels for v in range(tile.vectors)]
            slots = {at: cgutils.alloca_once(builder, _VEC) for at in grid}
            for slot in slots.values():
                builder.store(activation.constant(_VEC, 0.0), slot)
            pairs = builder.inttoptr(taps, _LONG.as_pointer())
            with cgutils.for_range(builder, f_blocks) as block, cgutils.for_range(builder, count) as tap:
                first = builder.shl(tap.index, _LONG(1))
                go_offset = builder.load(builder.gep(pairs, [first]))
                w_offset = builder.load(builder.gep(pairs, [builder.add(first, _LONG(1))]))
                source = builder.add(builder.add(go, go_offset), builder.mul(block.index, go_step))
                weight = builder.add(builder.add(w, w_offset), builder.mul(block.index, w_step))
                sources = [builder.add(source, builder.mul(go_row, _LONG(row))) for row in range(tile.rows)]
                panels = [builder.add(weight, builder.mul(w_vector, _LONG(v))) for v in range(tile.vectors)]
                for lane in range(BLOCK):
                    factors = [vector.emit_load(builder, _pointer(builder, panel, lane * 64)) for panel in panels]
                    for pixel in pixels:
                        row, column = pixel
                        value = vector.emit_load_splat(builder, _pointer(builder, sources[row], column * 64 + lane * 4))
                        for v, factor in enumerate(factors):
                            slot = slots[pixel, v]
                            builder.store(activation.fma(builder, value, factor, builder.load(slot)), slot)
            for pixel in pixels:
                row, column = _LONG(pixel[0]), _LONG(pixel[1])
                inside = builder.and_(builder.icmp_signed("<", row, rows), builder.icmp_signed("<", column, columns))
                with builder.if_then(inside):
                    for v in range(tile.vectors):
                        target = builder.add(out, builder.mul(out_row, row))
                        target = builder.add(target, builder.mul(out_column, column))
                        target = builder.add(target, builder.mul(out_vector, _LONG(v)))
                        total = builder.load(slots[pixel, v])
                        with builder.if_else(builder.icmp_signed("!=", add, _LONG(0))) as (more, new):
                            with more:
                                before = vector.emit_load(builder, target)
                                vector.emit_store(builder, target, builder.fadd(before, total))
                            with new:
                                vector.emit_store(builder, target, total)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 16), codegen

    return run


@cache
def weight_tile(lanes: int) -> Any:
    """Arguments: x and its steps from image to image, row to row, column to column; go and its steps to the next image
    and row (columns are contiguous); images, rows and columns; the address of the panel; whether to add to its values.
    """

    @extending.intrinsic
    def run(  # type: ignore[no-untyped-def]
        typingctx, x, x_image, x_row, x_column, go, go_image, go_row, images, rows, columns, out, add
    ):
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            x, x_image, x_row, x_column, go, go_image, go_row, images, rows, columns, out, add = args
            slots = [cgutils.alloca_once(builder, _VEC) for _ in range(lanes)]
            for slot in slots:
                builder.store(activation.constant(_VEC, 0.0), slot)
            with cgutils.for_range(builder, images) as image, cgutils.for_range(builder, rows) as row:
                x_start = builder.add(x, builder.add(builder.mul(image.index, x_image), builder.mul(row.index, x_row)))
                go_start = builder.add(go, builder.add(builder.mul(image.index, go_image), builder.mul(row.index, go_row)))
                with cgutils.for_range(builder, columns) as column:
                    source = builder.add(x_start, builder.mul(column.index, x_column))
                    factor = vector.emit_load(builder, builder.add(go_start, builder.shl(column.index, _LONG(6))))
                    for lane, slot in enumerate(slots):
                        value = vector.emit_load_splat(builder, _pointer(builder, source, lane * 4))
                        builder.store(activation.fma(builder, value, factor, builder.load(slot)), slot)
            with builder.if_else(builder.icmp_signed("!=", add, _LONG(0))) as (more, new):
                with more:
                    for lane, slot in enumerate(slots):
                        target = _pointer(builder, out, lane * 64)
                        before = vector.emit_load(builder, target)
                        vector.emit_store(builder, target, builder.fadd(before, builder.load(slot)))
                with new:
                    for lane, slot in enumerate(slots):
                        vector.emit_store(builder, _pointer(builder, out, lane * 64), builder.load(slot))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 12), codegen

    return run
