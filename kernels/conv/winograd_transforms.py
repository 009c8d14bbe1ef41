"""Winograd's minimal filtering as LLVM IR: F(m, r), m outputs of an r-tap filter with m + r − 1 products.

    y = Aᵀ [ (G g) ⊙ (Bᵀ d) ]        d: m+r−1 inputs, g: r weights, y: m outputs

and nested for two dimensions (Lavin and Gray 2016, arXiv:1509.09308). The matrices come from Toom and Cook's construction:
evaluate at the points 0, ±p, … and infinity, multiply, interpolate. Points in pairs ±p share the even and odd parts of their
rows, which halves the arithmetic. Every operation is on vl channels at once, in fp32: maps of 16 bits are widened as they
are loaded, and rounded as they are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from fogconv.ir.geometry import BLOCK
from fogconv.ir.precision.elements import ELEMENT_BYTES, Element
from fogconv.kernels.codegen import emit as v
from fogconv.kernels.codegen.emit import I64, Builder, Value
from fogconv.kernels.codegen.isa import Isa

PAIRS = (Fraction(1), Fraction(2), Fraction(1, 2), Fraction(3, 4))
"""The points ±p, in the order in which larger filters take them. With ±3/4 as the fourth pair the error of F(4, 7) is a
tenth of that with ±4 (5e-6 against 5e-5 of the largest output, 192 channels); ±1/4, ±3 and ±3/2 are in between."""

PAIRS_OF = {(3, 4): (Fraction(3, 4), Fraction(3, 2))}
"""Other points for F(m, r): a gradient's sums over many tiles have a third of the error with these (1.5e-6 of the
largest)."""

Row = tuple[Fraction, ...]


@dataclass(frozen=True, slots=True)
class Form:
    """F(m_h × m_w, r_h × r_w). A dimension with a kernel of 1 has m = 1 and is not transformed."""

    outputs: tuple[int, int]
    kernel: tuple[int, int]

    @property
    def inputs(self) -> tuple[int, int]:
        """Rows and columns of input per tile."""
        (mh, mw), (rh, rw) = self.outputs, self.kernel
        return mh + rh - 1, mw + rw - 1

    @property
    def elements(self) -> int:
        """Products per tile, input and output channel."""
        return self.inputs[0] * self.inputs[1]


@cache
def matrices(m: int, r: int) -> tuple[tuple[Row, ...], tuple[Row, ...], tuple[Row, ...]]:
    """(Aᵀ, Bᵀ, G) of F(m, r), exactly. The points are 0, p, −p, …, infinity."""
    size = m + r - 1
    if size == 1:
        one = ((Fraction(1),),)
        return one, one, one
    pairs = PAIRS_OF.get((m, r), PAIRS)[: (size - 2) // 2]
    points = [Fraction(0)] + [sign * p for p in pairs for sign in (1, -1)]
    if len(points) != size - 1:
        raise ValueError(f"F({m}, {r}) needs {size - 1} points; they come in pairs, for an even number of inputs up to 10")
    bt, g = [], []
    for j, point in enumerate(points):
        others = points[:j] + points[j + 1 :]
        scale = Fraction(1)
        for other in others:
            scale *= point - other
        bt.append((*_polynomial(others), Fraction(0)))
        g.append(tuple(point**k / scale for k in range(r)))
    bt.append(_polynomial(points))
    g.append((Fraction(0),) * (r - 1) + (Fraction(1),))
    at = [(*(point**i for point in points), Fraction(int(i == m - 1))) for i in range(m)]
    return tuple(at), tuple(bt), tuple(g)


def _polynomial(roots: Sequence[Fraction]) -> Row:
    """The coefficients of Π (x − root), the constant first."""
    coefficients = [Fraction(1)]
    for root in roots:
        coefficients = [
            (coefficients[i - 1] if i else Fraction(0)) - (root * coefficients[i] if i < len(coefficients) else Fraction(0))
            for i in range(len(coefficients) + 1)
        ]
    return tuple(coefficients)


def weight_matrices(form: Form) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """G for the rows and for the columns of a kernel."""
    (mh, mw), (rh, rw) = form.outputs, form.kernel
    return np.array(matrices(mh, rh)[2], np.float64), np.array(matrices(mw, rw)[2], np.float64)


def _combine(builder: Builder, coefficients: Sequence[Fraction], values: Sequence[Value], fused: bool) -> Value | None:
    """Σ coefficient·value, without multiplying by 1; None if all are 0."""
    terms = sorted(
        ((c, x) for c, x in zip(coefficients, values, strict=True) if c), key=lambda term: (term[0] != 1, term[0] != -1)
    )
    total: Value | None = None
    for c, x in terms:
        factor = v.constant(x.type.count, float(c))
        if total is None:
            total = x if c == 1 else builder.fmul(factor, x)
        elif abs(c) == 1:
            total = builder.fadd(total, x) if c == 1 else builder.fsub(total, x)
        else:
            total = v.fma(builder, factor, x, total, fused)
    return total


def _input_1d(builder: Builder, m: int, r: int, d: Sequence[Value], fused: bool) -> list[Value]:
    """Bᵀ d."""
    bt = matrices(m, r)[1]
    if len(bt) == 1:
        return list(d)
    results = [_combine(builder, bt[0], d, fused)]
    for row in bt[1:-1:2]:
        # The row of −p has the same even coefficients and the odd ones negated, up to the sign of the whole.
        even = _combine(builder, row[::2], d[::2], fused)
        odd = _combine(builder, row[1::2], d[1::2], fused)
        results += [builder.fadd(even, odd), _other(builder, row, bt[bt.index(row) + 1], even, odd)]
    results.append(_combine(builder, bt[-1], d, fused))
    return results


def _filter_1d(builder: Builder, m: int, r: int, g: Sequence[Value], fused: bool) -> list[Value]:
    """G g."""
    rows = matrices(m, r)[2]
    return list(g) if len(rows) == 1 else [_combine(builder, row, g, fused) for row in rows]


def _other(builder: Builder, row: Row, partner: Row, even: Value, odd: Value) -> Value:
    if partner[::2] == row[::2]:
        return builder.fsub(even, odd)
    return builder.fsub(odd, even)


def _output_1d(builder: Builder, m: int, r: int, y: Sequence[Value], fused: bool) -> list[Value]:
    """Aᵀ y."""
    at = matrices(m, r)[0]
    if len(y) == 1:
        return list(y)
    sums = [builder.fadd(a, b) for a, b in zip(y[1:-1:2], y[2:-1:2], strict=True)]
    differences = [builder.fsub(a, b) for a, b in zip(y[1:-1:2], y[2:-1:2], strict=True)]
    results = []
    for i, row in enumerate(at):
        terms = [y[0], *(differences if i % 2 else sums), y[-1]]
        results.append(_combine(builder, [row[0], *row[1:-1:2], row[-1]], terms, fused))
    return results


def _subvectors(builder: Builder, isa: Isa, places: Sequence[tuple[Value, Element]], body: Any) -> None:
    """``body(addresses)`` for each part of a block of 16 channels. ``places``: the first addresses, and what is there."""
    addresses, elements = zip(*places, strict=True)

    def part(now: Sequence[Value]) -> list[Value]:
        body(now)
        return [
            v.shifted(builder, address, ELEMENT_BYTES[element] * isa.vector_length)
            for address, element in zip(now, elements, strict=True)
        ]

    v.loop(builder, I64(BLOCK // isa.vector_length), addresses, part, at_least_once=True)


@cache
def input_intrinsic(form: Form, isa: Isa, element: Element = "fp32") -> Any:
    """transform_input(x, row stride, rows, columns, to, element stride): one tile of one block of channels, of which each is
    an ``element``.

    Only the first ``rows`` × ``columns`` inputs of the tile are read; the others are zeros. Element (i, j) goes to
    ``to + (i·(m_w+r_w−1) + j)·element stride``, in fp32.
    """
    return _tile_intrinsic(form, isa, form.inputs, _input_1d, element)


@cache
def filter_intrinsic(form: Form, isa: Isa) -> Any:
    """transform_filter, as ``input_intrinsic``, of the r_h × r_w values of a filter that are stored like an image's: the
    output's gradient, by which the input is filtered for the gradient of the weight."""
    return _tile_intrinsic(form, isa, form.kernel, _filter_1d)


def _tile_intrinsic(form: Form, isa: Isa, size: tuple[int, int], transform: Any, element: Element = "fp32") -> Any:
    @intrinsic
    def transform_tile(typing: Any, x: Any, row_stride: Any, rows: Any, columns: Any, to: Any, stride: Any) -> Any:
        def code(context: Any, builder: Builder, signature: Any, args: Sequence[Value]) -> Value:
            _emit_tile(builder, form, isa, size, transform, args, element)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), code

    return transform_tile


def emit_input(builder: Builder, *args: Value, form: Form, isa: Isa, element: Element = "fp32") -> None:
    """Emit `input_intrinsic`'s function of ``args``."""
    _emit_tile(builder, form, isa, form.inputs, _input_1d, args, element)


def _emit_tile(
    builder: Builder,
    form: Form,
    isa: Isa,
    size: tuple[int, int],
    transform: Any,
    args: Sequence[Value],
    element: Element = "fp32",
) -> None:
    (mh, mw), (rh, rw), (high, wide) = form.outputs, form.kernel, size
    x, row_stride, rows, columns, to, stride = args
    zero, pixel = v.constant(isa.vector_length, 0.0), BLOCK * ELEMENT_BYTES[element]

    def emit(whole: bool) -> None:
        def one(now: Sequence[Value]) -> None:
            x, to = now
            lines = [x]
            for _ in range(1, high):
                lines.append(v.shifted(builder, lines[-1], row_stride))

            def read(i: int, j: int) -> Value:
                def load(_: Sequence[Value]) -> list[Value]:
                    return [v.load_as(builder, lines[i], isa.vector_length, pixel * j, element)]

                if whole:
                    return load([])[0]
                inside = builder.and_(builder.icmp_signed("<", I64(i), rows), builder.icmp_signed("<", I64(j), columns))
                return v.when(builder, inside, [zero], load)[0]

            done = [transform(builder, mh, rh, [read(i, j) for i in range(high)], isa.fused) for j in range(wide)]
            at = to
            for i in range(form.inputs[0]):
                for value in transform(builder, mw, rw, [done[j][i] for j in range(wide)], isa.fused):
                    v.store(builder, value, at)
                    at = v.shifted(builder, at, stride)

        _subvectors(builder, isa, [(x, element), (to, "fp32")], one)

    all_there = builder.and_(builder.icmp_signed(">=", rows, I64(high)), builder.icmp_signed(">=", columns, I64(wide)))
    with builder.if_else(all_there) as (then, otherwise):
        with then:
            emit(True)
        with otherwise:
            emit(False)


@cache
def output_intrinsic(form: Form, isa: Isa, element: Element = "fp32") -> Any:
    """transform_output(products, element stride, bias, to, row stride, residual, its stride, rows, columns, flags, clamp)

    One tile of one block of channels: Aᵀ M A + bias (+ residual where flags has 1), clamped between the two floats at
    ``clamp`` where flags has 2 or 4. Only the first ``rows`` × ``columns`` of the tile's outputs are written. ``element``:
    of outputs and residual, which are computed in fp32 all the same.
    """

    @intrinsic
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
            emit_output(builder, *args, form=form, isa=isa, element=element)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 11), code

    return transform_output


def emit_output(builder: Builder, *args: Value, form: Form, isa: Isa, element: Element = "fp32") -> None:
    """Emit `output_intrinsic`'s function of ``args``."""
    (mh, mw), (rh, rw), (tall, wide) = form.outputs, form.kernel, form.inputs
    vl, pixel = isa.vector_length, BLOCK * ELEMENT_BYTES[element]

    def emit(whole: bool) -> None:
        products, stride, bias, to, row_stride, residual, residual_stride, rows, columns, flags, clamp = args
        low, high = (v.splat(builder, v.load_f32(builder, clamp, offset), vl) for offset in (0, 4))
        with_residual, with_clamp = (builder.icmp_unsigned("!=", builder.and_(flags, I64(flag)), I64(0)) for flag in (1, 6))

        def one(now: Sequence[Value]) -> None:
            products, bias, to, residual = now
            at = products
            elements = []
            for _ in range(tall * wide):
                elements.append(v.load(builder, at, vl))
                at = v.shifted(builder, at, stride)
            done = [
                _output_1d(builder, mh, rh, [elements[i * wide + j] for i in range(tall)], isa.fused) for j in range(wide)
            ]
            start = v.load(builder, bias, vl)
            results = []
            for i in range(mh):
                line = _output_1d(builder, mw, rw, [done[j][i] for j in range(wide)], isa.fused)
                results += [builder.fadd(value, start) for value in line]

            def inside(i: int, j: int) -> Value:
                return builder.and_(builder.icmp_signed("<", I64(i), rows), builder.icmp_signed("<", I64(j), columns))

            def add(now: Sequence[Value]) -> list[Value]:
                summed, line = [], residual
                for i in range(mh):
                    line = v.shifted(builder, line, residual_stride) if i else line
                    for j in range(mw):

                        def plus(now: Sequence[Value], line: Value = line, j: int = j) -> list[Value]:
                            return [builder.fadd(now[0], v.load_as(builder, line, vl, pixel * j, element))]

                        value = [now[i * mw + j]]
                        summed += plus(value) if whole else v.when(builder, inside(i, j), value, plus)
                return summed

            def limit(now: Sequence[Value]) -> list[Value]:
                return [v.minimum(builder, high, v.maximum(builder, low, value)) for value in now]

            results = v.when(builder, with_residual, results, add)
            results = v.when(builder, with_clamp, results, limit)
            line = to
            for i in range(mh):
                line = v.shifted(builder, line, row_stride) if i else line
                for j in range(mw):
                    if whole:
                        v.store_as(builder, results[i * mw + j], line, pixel * j, element)
                    else:
                        with builder.if_then(inside(i, j)):
                            v.store_as(builder, results[i * mw + j], line, pixel * j, element)

        _subvectors(builder, isa, [(products, "fp32"), (bias, "fp32"), (to, element), (residual, element)], one)

    whole = builder.and_(builder.icmp_signed(">=", args[7], I64(mh)), builder.icmp_signed(">=", args[8], I64(mw)))
    with builder.if_else(whole) as (then, otherwise):
        with then:
            emit(True)
        with otherwise:
            emit(False)
