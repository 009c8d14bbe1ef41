"""The matrices of Winograd's minimal filtering, F(m, r): m outputs of an r-tap filter with m + r − 1 products.

    y = Aᵀ [ (G g) ⊙ (Bᵀ d) ]        d: m+r−1 inputs, g: r weights, y: m outputs

and nested for two dimensions (Lavin and Gray 2016, arXiv:1509.09308). They come from Toom and Cook's construction:
evaluate at the points 0, ±p, … and infinity, multiply, interpolate. Points in pairs ±p share the even and odd parts of their
rows, which halves the arithmetic: `input_1d`, `filter_1d` and `output_1d` emit it as LLVM IR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import NDArray

from fogconv.kernels.codegen import emit as v
from fogconv.kernels.codegen.emit import Builder, Value

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


def input_1d(builder: Builder, m: int, r: int, d: Sequence[Value], fused: bool) -> list[Value]:
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


def filter_1d(builder: Builder, m: int, r: int, g: Sequence[Value], fused: bool) -> list[Value]:
    """G g."""
    rows = matrices(m, r)[2]
    return list(g) if len(rows) == 1 else [_combine(builder, row, g, fused) for row in rows]


def _other(builder: Builder, row: Row, partner: Row, even: Value, odd: Value) -> Value:
    if partner[::2] == row[::2]:
        return builder.fsub(even, odd)
    return builder.fsub(odd, even)


def output_1d(builder: Builder, m: int, r: int, y: Sequence[Value], fused: bool) -> list[Value]:
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
