"""F(4×4, 3×3) in integers, exactly, as LLVM IR: 36 products of 16-bit numbers per 16 outputs instead of 144 of bytes.

    576·y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A        modulo 2³²

Bᵀ is that of `fogconv.kernels.conv.winograd_transforms`, whose numbers are integers. G is multiplied by 24, so that its are,
too; its last row by 12, and the last column of Aᵀ by the other 2, or U would need more than 16 bits:

    G   6  0  0    −4 −4 −4    −4 4 −4    1 2 4    1 −2 4    0 0 12
    Aᵀ  1 1 1 1 1 0    0 1 −1 2 −2 0    0 1 1 4 4 0    0 1 −1 8 −8 2

Inputs (0 … 255) become at most 68·255 = 17340, weights (−128 … 127) at most 12·12·128 = 18432. Sums and Aᵀ wrap around at
2³², which does no harm: 576 = 64·9, and 9 has an inverse modulo 2³². So 64·y is there modulo 2³², and y itself where
|y| < 2²⁵.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from fogconv.ir.geometry import BLOCK
from fogconv.kernels.codegen import emit as v
from fogconv.kernels.codegen.emit import I8, I16, I32, I64, Builder, Value
from fogconv.kernels.codegen.isa import Isa
from fogconv.kernels.quantized.arithmetic import Result, load_target

OUTPUTS, INPUTS = 4, 6
"""Per tile, in each direction."""
ELEMENTS = INPUTS * INPUTS

FILTER = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 12]], np.int32)
"""24·G, but for half of its last row."""

NINTH = pow(9, -1, 1 << 32)
"""What takes a factor of 9 off, modulo 2³²."""
SCALE_BITS = 6
MOST = 1 << 25
"""A sum's absolute value must be below this."""


def transformed(weight: NDArray[np.int8]) -> NDArray[np.int16]:
    """(f, c, 3, 3) → U (36, c, f)."""
    f, c = weight.shape[:2]
    both = np.kron(FILTER, FILTER).astype(np.float32)  # exact: no sum reaches 2²⁴
    u = both @ weight.reshape(f * c, -1).T.astype(np.float32)
    return u.reshape(ELEMENTS, f, c).transpose(0, 2, 1).astype(np.int16)


def fits(weight: NDArray[np.int8]) -> bool:
    """Whether no sum of products with bytes can reach `MOST`."""
    wide = weight.reshape(len(weight), -1).astype(np.int64)
    parts = (np.maximum(wide, 0).sum(1), np.minimum(wide, 0).sum(1))
    return all(255 * int(abs(part).max(initial=0)) < MOST for part in parts)


def _input_1d(builder: Builder, d: Sequence[Value]) -> list[Value]:
    """Bᵀ d."""
    four, five = (_every(d[0].type, number) for number in (4, 5))
    even, odd = builder.sub(d[4], builder.mul(d[2], four)), builder.sub(d[3], builder.mul(d[1], four))
    far, near = builder.sub(d[4], d[2]), builder.shl(builder.sub(d[3], d[1]), _every(d[0].type, 1))
    return [
        builder.add(builder.sub(builder.mul(d[0], four), builder.mul(d[2], five)), d[4]),
        *(builder.add(even, odd), builder.sub(even, odd)),
        *(builder.add(far, near), builder.sub(far, near)),
        builder.add(builder.sub(builder.mul(d[1], four), builder.mul(d[3], five)), d[5]),
    ]


def _output_1d(builder: Builder, m: Sequence[Value]) -> list[Value]:
    """Aᵀ m."""
    kind = m[0].type
    near, far = builder.add(m[1], m[2]), builder.add(m[3], m[4])
    left, right = builder.sub(m[1], m[2]), builder.sub(m[3], m[4])

    def times(value: Value, power: int) -> Value:
        return builder.shl(value, _every(kind, power))

    return [
        builder.add(m[0], builder.add(near, far)),
        builder.add(left, times(right, 1)),
        builder.add(near, times(far, 2)),
        builder.add(builder.add(left, times(right, 3)), times(m[5], 1)),
    ]


@cache
def input_intrinsic() -> Any:
    """transform_input(x, row stride, rows, columns, to, element stride): one tile of one block of channels.

    Only the first ``rows`` × ``columns`` inputs of the tile are read; the others count as 0. Element (i, j) goes, as 16
    int16, to ``to + (6·i + j)·element stride``.
    """

    @intrinsic
    def transform_input(typing: Any, x: Any, row_stride: Any, rows: Any, columns: Any, to: Any, stride: Any) -> Any:
        def code(context: Any, builder: Builder, signature: Any, args: Sequence[Value]) -> Value:
            emit_input(builder, *args)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), code

    return transform_input


def emit_input(builder: Builder, x: Value, row_stride: Value, rows: Value, columns: Value, to: Value, stride: Value) -> None:
    """Emit `input_intrinsic`'s function."""
    shorts = ir.VectorType(I16, BLOCK)

    def emit(whole: bool) -> None:
        lines = [x]
        for _ in range(1, INPUTS):
            lines.append(v.shifted(builder, lines[-1], row_stride))

        def read(i: int, j: int) -> Value:
            def load(_: Sequence[Value]) -> list[Value]:
                loaded = builder.load(v.pointer(builder, lines[i], ir.VectorType(I8, BLOCK), BLOCK * j))
                loaded.align = 1
                return [builder.zext(loaded, shorts)]

            if whole:
                return load([])[0]
            return v.when(builder, _inside(builder, i, j, rows, columns), [_every(shorts, 0)], load)[0]

        done = [_input_1d(builder, [read(i, j) for i in range(INPUTS)]) for j in range(INPUTS)]
        at = to
        for i in range(INPUTS):
            for value in _input_1d(builder, [done[j][i] for j in range(INPUTS)]):
                v.store(builder, value, at, align=2 * BLOCK)
                at = v.shifted(builder, at, stride)

    _whole_or_not(builder, rows, columns, INPUTS, emit)


@cache
def output_intrinsic(isa: Isa, result: Result) -> Any:
    """transform_output(products, element stride, ends, to, row stride, rows, columns, fields): one tile of one block of
    channels, of which only the first ``rows`` × ``columns`` outputs are written.

    ``ends``: the block's 16 biases, then its multipliers. ``fields`` has the bounds and the zero of bytes, as a tile's.
    """

    @intrinsic
    def transform_output(
        typing: Any,
        products: Any,
        stride: Any,
        ends: Any,
        to: Any,
        row_stride: Any,
        rows: Any,
        columns: Any,
        fields: Any,
    ) -> Any:
        def code(context: Any, builder: Builder, signature: Any, args: Sequence[Value]) -> Value:
            emit_output(builder, *args, isa=isa, result=result)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), code

    return transform_output


def emit_output(
    builder: Builder,
    products: Value,
    stride: Value,
    ends: Value,
    to: Value,
    row_stride: Value,
    rows: Value,
    columns: Value,
    fields: Value,
    *,
    isa: Isa,
    result: Result,
) -> None:
    """Emit `output_intrinsic`'s function."""
    vl = isa.vector_length
    words = ir.VectorType(I32, vl)
    size = np.dtype(result.kind).itemsize
    target = load_target(builder, fields, vl) if result is Result.BYTES else None

    def load(address: Value, offset: int = 0) -> Value:
        return builder.bitcast(v.load(builder, address, vl, offset), words)

    def ended(value: Value, ends: Value) -> Value:
        """A sum of 576·y becomes y + bias, as a real number unless sums are wanted."""
        whole = builder.ashr(builder.mul(value, _every(words, NINTH)), _every(words, SCALE_BITS))
        whole = builder.add(whole, load(ends))
        if result is Result.SUMS:
            return whole
        return builder.fmul(builder.sitofp(whole, v.vector(vl)), v.load(builder, ends, vl, 4 * BLOCK))

    def emit(whole: bool) -> None:
        def part(now: Sequence[Value]) -> list[Value]:
            products, ends, to = now
            at, elements = products, []
            for _ in range(ELEMENTS):
                elements.append(load(at))
                at = v.shifted(builder, at, stride)
            done = [_output_1d(builder, elements[j::INPUTS]) for j in range(INPUTS)]
            line = to
            for i in range(OUTPUTS):
                line = v.shifted(builder, line, row_stride) if i else line
                values = [ended(value, ends) for value in _output_1d(builder, [done[j][i] for j in range(INPUTS)])]
                write(line, i, values)
            return [
                v.shifted(builder, products, 4 * vl),
                v.shifted(builder, ends, 4 * vl),
                v.shifted(builder, to, size * vl),
            ]

        def write(line: Value, i: int, values: Sequence[Value]) -> None:
            together = None
            if target is not None and v.cpu_family(builder) == "x86":
                together = target.packed(builder, list(values))
                if whole and vl == BLOCK:
                    v.store(builder, together, line, align=1)
                    return
            elif target is not None:
                values = [target.bytes_of(builder, value) for value in values]
            for j in range(OUTPUTS):
                own = values[j] if together is None else v.pick(builder, together, together, range(vl * j, vl * (j + 1)))
                if whole:
                    v.store(builder, own, line, size * BLOCK * j, align=size)
                    continue
                with builder.if_then(_inside(builder, i, j, rows, columns)):
                    v.store(builder, own, line, size * BLOCK * j, align=size)

        v.loop(builder, I64(BLOCK // vl), [products, ends, to], part, at_least_once=True)

    _whole_or_not(builder, rows, columns, OUTPUTS, emit)


def _whole_or_not(builder: Builder, rows: Value, columns: Value, size: int, emit: Callable[[bool], None]) -> None:
    """``emit`` for a tile that is there as a whole, and for others."""
    there = builder.and_(builder.icmp_signed(">=", rows, I64(size)), builder.icmp_signed(">=", columns, I64(size)))
    with builder.if_else(there) as (then, otherwise):
        with then:
            emit(True)
        with otherwise:
            emit(False)


def _inside(builder: Builder, i: int, j: int, rows: Value, columns: Value) -> Value:
    return builder.and_(builder.icmp_signed("<", I64(i), rows), builder.icmp_signed("<", I64(j), columns))


def _every(kind: Any, number: int) -> Value:
    return ir.Constant(kind, [number] * kind.count)
