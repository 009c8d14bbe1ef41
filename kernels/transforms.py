"""Winograd's transforms for F(m×m, 3×3), m = 2 or 4, as LLVM IR (Lavin and Gray 2016, arXiv:1509.09308).

    Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A        d: (m+2)×(m+2) inputs, g: 3×3 weights, Y: m×m outputs

The points are 0, ±1 (and ±2 for m = 4) and infinity. Every operation is on vl channels at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from fogconv.kernels import emit as v
from fogconv.kernels.emit import I64, Builder, Value
from fogconv.kernels.isa import Isa

G = {
    2: np.array([[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]]),
    4: np.array(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ]
    ),
}


def transform_weights(weight: NDArray[Any], m: int) -> NDArray[np.float32]:
    """(…, 3, 3) → ((m+2)², …), computed in float64."""
    wide = weight.astype(np.float64)
    rows = [sum(g[k] * wide[..., k, :] for k in range(3)) for g in G[m]]
    return np.stack([sum(g[k] * row[..., k] for k in range(3)) for row in rows for g in G[m]]).astype(np.float32)


def _input_1d(builder: Builder, m: int, d: Sequence[Value], fused: bool) -> list[Value]:
    """Bᵀ d."""
    vl = d[0].type.count

    def fma(factor: float, a: Value, b: Value) -> Value:
        return v.fma(builder, v.constant(vl, factor), a, b, fused)

    add, sub = builder.fadd, builder.fsub
    if m == 2:
        return [sub(d[0], d[2]), add(d[1], d[2]), sub(d[2], d[1]), sub(d[1], d[3])]
    a, b = fma(-4, d[2], d[4]), fma(-4, d[1], d[3])
    c, e = sub(d[4], d[2]), sub(d[3], d[1])
    return [
        fma(4, d[0], fma(-5, d[2], d[4])),
        add(a, b),
        sub(a, b),
        fma(2, e, c),
        fma(-2, e, c),
        fma(4, d[1], fma(-5, d[3], d[5])),
    ]


def _output_1d(builder: Builder, m: int, y: Sequence[Value], fused: bool) -> list[Value]:
    """Aᵀ y."""
    vl = y[0].type.count

    def fma(factor: float, a: Value, b: Value) -> Value:
        return v.fma(builder, v.constant(vl, factor), a, b, fused)

    add, sub = builder.fadd, builder.fsub
    if m == 2:
        return [add(add(y[0], y[1]), y[2]), sub(sub(y[1], y[2]), y[3])]
    p, q, r, s = add(y[1], y[2]), sub(y[1], y[2]), add(y[3], y[4]), sub(y[3], y[4])
    return [add(add(y[0], p), r), fma(2, s, q), fma(4, r, p), add(fma(8, s, q), y[5])]


def _subvectors(builder: Builder, isa: Isa, addresses: Sequence[Value], body: Any) -> None:
    """``body(addresses)`` for each part of a block of 16 channels."""

    def part(now: Sequence[Value]) -> list[Value]:
        body(now)
        return [v.shifted(builder, address, 4 * isa.vector_length) for address in now]

    v.loop(builder, I64(16 // isa.vector_length), addresses, part, at_least_once=True)


@cache
def input_intrinsic(m: int, isa: Isa) -> Any:
    """transform_input(x, row stride, rows, columns, to, element stride): one tile of one block of channels.

    Only the first ``rows`` × ``columns`` inputs of the (m+2)×(m+2) are read; the others are zeros. Element (i, j) goes to
    ``to + (i·(m+2) + j)·element stride``.
    """
    a = m + 2

    def emit(
        builder: Builder, x: Value, row_stride: Value, rows: Value | None, columns: Value | None, to: Value, stride: Value
    ) -> None:
        zero = v.constant(isa.vector_length, 0.0)

        def one(now: Sequence[Value]) -> None:
            x, to = now
            lines = [x]
            for _ in range(1, a):
                lines.append(v.shifted(builder, lines[-1], row_stride))

            def read(i: int, j: int) -> Value:
                def load(_: Sequence[Value]) -> list[Value]:
                    return [v.load(builder, lines[i], isa.vector_length, 64 * j)]

                if rows is None:
                    return load([])[0]
                inside = builder.and_(builder.icmp_signed("<", I64(i), rows), builder.icmp_signed("<", I64(j), columns))
                return v.when(builder, inside, [zero], load)[0]

            done = [_input_1d(builder, m, [read(i, j) for i in range(a)], isa.fused) for j in range(a)]
            at = to
            for i in range(a):
                for value in _input_1d(builder, m, [done[j][i] for j in range(a)], isa.fused):
                    v.store(builder, value, at)
                    at = v.shifted(builder, at, stride)

        _subvectors(builder, isa, [x, to], one)

    @intrinsic  # type: ignore[misc]
    def transform_input(typing: Any, x: Any, row_stride: Any, rows: Any, columns: Any, to: Any, stride: Any) -> Any:
        def code(context: Any, builder: Builder, signature: Any, args: Sequence[Value]) -> Value:
            x, row_stride, rows, columns, to, stride = args
            whole = builder.and_(builder.icmp_signed(">=", rows, I64(a)), builder.icmp_signed(">=", columns, I64(a)))
            with builder.if_else(whole) as (then, otherwise):
                with then:
                    emit(builder, x, row_stride, None, None, to, stride)
                with otherwise:
                    emit(builder, x, row_stride, rows, columns, to, stride)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), code

    return transform_input


@cache
def output_intrinsic(m: int, isa: Isa) -> Any:
    """transform_output(products, element stride, bias, to, row stride, residual, its row stride, rows, columns, flags, clamp)

    One tile of one block of channels: Aᵀ M A + bias (+ residual where flags has 1), clamped between the two floats at
    ``clamp`` where flags has 2. Only the first ``rows`` × ``columns`` of the m×m outputs are written.
    """
    a = m + 2
    vl = isa.vector_length

    def emit(builder: Builder, args: Sequence[Value], whole: bool) -> None:
        products, stride, bias, to, row_stride, residual, residual_stride, rows, columns, flags, clamp = args
        low, high = (v.splat(builder, v.load_f32(builder, clamp, offset), vl) for offset in (0, 4))
        with_residual, with_clamp = (builder.icmp_unsigned("!=", builder.and_(flags, I64(flag)), I64(0)) for flag in (1, 2))

        def one(now: Sequence[Value]) -> None:
            products, bias, to, residual = now
            at = products
            elements = []
            for _ in range(a * a):
                elements.append(v.load(builder, at, vl))
                at = v.shifted(builder, at, stride)
            done = [_output_1d(builder, m, [elements[i * a + j] for i in range(a)], isa.fused) for j in range(a)]
            start = v.load(builder, bias, vl)
            results = []
            for i in range(m):
                line = _output_1d(builder, m, [done[j][i] for j in range(a)], isa.fused)
                results += [builder.fadd(value, start) for value in line]

            def inside(i: int, j: int) -> Value:
                return builder.and_(builder.icmp_signed("<", I64(i), rows), builder.icmp_signed("<", I64(j), columns))

            def add(now: Sequence[Value]) -> list[Value]:
                summed, line = [], residual
                for i in range(m):
                    line = v.shifted(builder, line, residual_stride) if i else line
                    for j in range(m):

                        def plus(now: Sequence[Value], line: Value = line, j: int = j) -> list[Value]:
                            return [builder.fadd(now[0], v.load(builder, line, vl, 64 * j))]

                        value = [now[i * m + j]]
                        summed += plus(value) if whole else v.when(builder, inside(i, j), value, plus)
                return summed

            def limit(now: Sequence[Value]) -> list[Value]:
                return [v.minimum(builder, high, v.maximum(builder, low, value)) for value in now]

            results = v.when(builder, with_residual, results, add)
            results = v.when(builder, with_clamp, results, limit)
            line = to
            for i in range(m):
                line = v.shifted(builder, line, row_stride) if i else line
                for j in range(m):
                    if whole:
                        v.store(builder, results[i * m + j], line, 64 * j)
                    else:
                        with builder.if_then(inside(i, j)):
                            v.store(builder, results[i * m + j], line, 64 * j)

        _subvectors(builder, isa, [products, bias, to, residual], one)

    @intrinsic  # type: ignore[misc]
    def transform_output(
        typing: Any,
        products: Any,
        stride: Any,
        bias: Any,
        to: Any,
        row_stride: Any,
        residual: Any,
        residual_stride: Any,
        rows: Any,
        columns: Any,
        flags: Any,
        clamp: Any,
    ) -> Any:
        def code(context: Any, builder: Builder, signature: Any, args: Sequence[Value]) -> Value:
            whole = builder.and_(builder.icmp_signed(">=", args[7], I64(m)), builder.icmp_signed(">=", args[8], I64(m)))
            with builder.if_else(whole) as (then, otherwise):
                with then:
                    emit(builder, args, True)
                with otherwise:
                    emit(builder, args, False)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 11), code

    return transform_output
