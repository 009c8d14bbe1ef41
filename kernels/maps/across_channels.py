"""Operators across channels on blocked maps: for each pixel, all channels together.

softmax, log_softmax   exp(x − m) ÷ Σ exp(x − m), m the greatest; and its logarithm
layer_norm(eps)        (x − mean) ÷ √(variance + eps) · scale + shift, the variance about the mean in a second pass
lrn(size, alpha, beta, bias)   x ÷ (bias + alpha/size · Σ of the squares of ``size`` neighbouring channels)^beta

A pixel's channels are copied into a line of their own, with what counts for nothing on both sides: maps end within blocks,
and neighbours of a channel may lie in another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from fogconv.errors import KernelError, unknown
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import BLOCK
from fogconv.kernels.codegen import vector
from fogconv.kernels.codegen.formulas import applied
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.maps.blocked import Blocked, aligned_zeros, blocks
from fogconv.kernels.maps.bound import Bound, address_of, bind, flat, place, same_size

_exp, _log, _root = (applied(name) for name in ("exp", "log", "sqrt"))

OPERATORS = {"softmax": 0, "log_softmax": 0, "layer_norm": 1, "lrn": 4}
"""The number of parameters of each."""

WIDEST = 2 * BLOCK
"""The most channels under the window of an lrn."""


def bind_across(
    op: str,
    x: Blocked,
    out: Blocked,
    parameters: Sequence[float] = (),
    scale: Array | None = None,
    shift: Array | None = None,
) -> Bound:
    """out = op(x) over the channels of each pixel; scale and shift are (C,). ``out`` may be ``x``.

    Raises KernelError for an unknown operator, other parameters than it takes, and other shapes.
    """
    if op not in OPERATORS:
        raise KernelError(unknown("operator across channels", op, OPERATORS))
    if len(parameters) != OPERATORS[op]:
        raise KernelError(f"{op} takes {OPERATORS[op]} parameters, not {len(parameters)}")
    if (scale is not None or shift is not None) and op != "layer_norm":
        raise KernelError(f"{op} has neither scale nor shift")
    same_size("the input", x, out)
    numbers_ = np.zeros(4, np.float32)
    numbers_[: len(parameters)] = parameters
    before = width = 0
    if op == "lrn":
        size = parameters[0]
        if not (1 <= size <= WIDEST and size == int(size)):
            raise KernelError(f"lrn over {size} channels; it must be a whole number up to {WIDEST}")
        before, width = (int(size) - 1) // 2, int(size)
        numbers_[1] = parameters[1] / size
    count = blocks(out.channels)
    # What counts for nothing lies beside the channels: zeros are no part of a sum, −∞ is no greatest value.
    line = aligned_zeros((count * BLOCK + 2 * WIDEST,))
    line[:] = -np.inf if "softmax" in op else 0.0
    made, weights = aligned_zeros((count * BLOCK,)), aligned_zeros((count, 2, BLOCK))
    for number, (name, values) in enumerate((("scale", scale), ("shift", shift))):
        if values is not None and values.shape != (out.channels,):
            raise KernelError(f"the {name} has the shape {values.shape}; the map has {out.channels} channels")
        lanes = np.full(count * BLOCK, 1.0 - number, np.float32)
        lanes[: out.channels] = 1.0 - number if values is None else values
        weights[:, number] = lanes.reshape(count, BLOCK)
    a, b = place("input", x), place("output", out)
    rows, columns = flat(out.height, out.width, a, b)
    numbers = (
        *(*a, *b, out.batch, count - 1, rows, columns, out.channels - (count - 1) * BLOCK),
        *(address_of(line) + 4 * WIDEST, address_of(weights), address_of(made), address_of(numbers_), before, width),
    )
    return bind(_walk(op), numbers, x.data, out.data, line, made, weights, numbers_)


@cache
def _walk(op: str) -> Any:
    pixel = {"softmax": _softmax(False), "log_softmax": _softmax(True), "layer_norm": _layer_norm, "lrn": _lrn}[op]

    @jit
    def walk(a):  # type: ignore[no-untyped-def]
        x, x_image, x_block, x_row = a[0], a[1], a[2], a[3]
        out, out_image, out_block, out_row = a[4], a[5], a[6], a[7]
        batch, last, rows, columns, lanes = a[8], a[9], a[10], a[11], a[12]
        line, weights = a[13], a[14]
        for n in range(batch):
            for row in range(rows):
                for column in range(columns):
                    source = x + n * x_image + row * x_row + column * 64
                    target = out + n * out_image + row * out_row + column * 64
                    for block in range(last):
                        vector.store(line + block * 64, vector.load(source + block * x_block))
                    vector.store_between(line + last * 64, vector.load(source + last * x_block), 0, lanes)
                    made = pixel(line, last, lanes, weights, a)
                    for block in range(last):
                        vector.store(target + block * out_block, vector.load(made + block * 64))
                    vector.store_between(target + last * out_block, vector.load(made + last * 64), 0, lanes)

    return walk


@cache
def _softmax(logarithm: bool) -> Any:
    @jit
    def softmax(line, last, lanes, weights, a):  # type: ignore[no-untyped-def]
        """In place. Lanes beyond the channels are −∞: no greatest value, and their exponential is 0."""
        none = vector.zero()
        best = vector.load(line)
        for block in range(last):
            best = vector.maximum(best, vector.load(line + 64 + block * 64))
        most = vector.splat(vector.greatest(best))
        sum_ = vector.zero()
        made = a[15]
        for block in range(last + 1):
            value = vector.sub(vector.load(line + block * 64), most)
            power = _exp(value, none, none, none, none)
            sum_ = vector.add(sum_, power)
            vector.store(made + block * 64, value if logarithm else power)
        whole = vector.splat(vector.total(sum_))
        if logarithm:
            whole = _log(whole, none, none, none, none)
        for block in range(last + 1):
            value = vector.load(made + block * 64)
            vector.store(made + block * 64, vector.sub(value, whole) if logarithm else vector.div(value, whole))
        return made

    return softmax


@jit
def _layer_norm(line, last, lanes, weights, a):  # type: ignore[no-untyped-def]
    none = vector.zero()
    elements = vector.splat(np.float32(last * 16 + lanes))
    sum_ = vector.zero()
    for block in range(last + 1):
        sum_ = vector.add(sum_, vector.load(line + block * 64))
    mean = vector.div(vector.splat(vector.total(sum_)), elements)
    made = a[15]
    squares = vector.zero()
    for block in range(last):
        off = vector.sub(vector.load(line + block * 64), mean)
        vector.store(made + block * 64, off)
        squares = vector.fma(off, off, squares)
    # The lanes beyond the last channel stay 0.
    vector.store_between(made + last * 64, vector.sub(vector.load(line + last * 64), mean), 0, lanes)
    off = vector.load(made + last * 64)
    squares = vector.fma(off, off, squares)
    variance = vector.add(vector.div(vector.splat(vector.total(squares)), elements), vector.load_splat(a[16]))
    deviation = _root(variance, none, none, none, none)
    for block in range(last + 1):
        value = vector.div(vector.load(made + block * 64), deviation)
        value = vector.fma(value, vector.load(weights + block * 128), vector.load(weights + block * 128 + 64))
        vector.store_between(line + block * 64, value, 0, lanes if block == last else 16)
    return line


@jit
def _lrn(line, last, lanes, weights, a):  # type: ignore[no-untyped-def]
    none = vector.zero()
    alpha, beta, bias = vector.load_splat(a[16] + 4), vector.load_splat(a[16] + 8), vector.load_splat(a[16] + 12)
    made, before, width = a[15], a[17], a[18]
    for block in range(last + 1):
        squares = vector.zero()
        for other in range(width):
            value = vector.load(line + block * 64 + (other - before) * 4)
            squares = vector.fma(value, value, squares)
        base = _log(vector.fma(squares, alpha, bias), none, none, none, none)
        divisor = _exp(vector.mul(base, beta), none, none, none, none)
        vector.store(made + block * 64, vector.div(vector.load(line + block * 64), divisor))
    return made
