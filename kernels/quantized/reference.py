"""The reference of the 8-bit kernels, in NumPy: simple, exact, and what every compiled kernel equals bit by bit.

All maps are NCHW, all specs those of `fogconv.ir.geometry`; padding stands for the input's zero. See
`fogconv.kernels.quantized.numbers` for the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.errors import KernelError
from fogconv.ir.geometry import ConvSpec, PoolSpec
from fogconv.kernels import reference
from fogconv.kernels.quantized.numbers import Bytes, Floats, Scale, Sums, Target, Weights


def conv_sums(spec: ConvSpec, x: Bytes, weight: Weights, zero_x: int) -> Sums:
    """(N, c, H, W) uint8, (f, c/g, K_h, K_w) int8 → (N, f, h, w) int32: Σ (q_x − zero_x) · q_w, without bias.

    Any kernel, stride, padding, dilation and number of groups, depthwise ones too. Sums wrap as int32 does.
    """
    centred = _checked("the input", x, np.uint8).astype(np.float64) - zero_x
    exact = reference.conv2d(centred, _checked("the weight", weight, np.int8), None, spec)
    return exact.astype(np.int64).astype(np.int32)


def linear_sums(x: Bytes, weight: Weights, zero_x: int) -> Sums:
    """(N, c) uint8, (f, c) int8 → (N, f) int32."""
    centred = _checked("the input", x, np.uint8).astype(np.float64) - zero_x
    exact = centred @ _checked("the weight", weight, np.int8).astype(np.float64).T
    return exact.astype(np.int64).astype(np.int32)


def requantise(sums: Sums, bias: Sums | None, multipliers: Floats, target: Target) -> Bytes:
    """(N, f, …) int32, (f,) int32, (f,) float32 → uint8."""
    return to_bytes(_floats(sums, bias) * _per_channel(multipliers, sums.ndim), target)


def dequantise_sums(sums: Sums, bias: Sums | None, multipliers: Floats) -> Floats:
    """(N, f, …) int32, (f,) int32, (f,) float32 → float32: where a layer's output stays in floats."""
    return np.asarray(_floats(sums, bias) * _per_channel(multipliers, sums.ndim), np.float32)


def add(a: Bytes, b: Bytes, zeros: tuple[int, int], multipliers: tuple[np.float32, np.float32], target: Target) -> Bytes:
    """Two maps of one shape: rne(float32(a − zero_a)·m_a + float32(b − zero_b)·m_b) + zero."""
    first = _centred(a, zeros[0]) * np.float32(multipliers[0])
    second = _centred(b, zeros[1]) * np.float32(multipliers[1])
    return to_bytes(first + second, target)


def multiply(a: Bytes, b: Bytes, zeros: tuple[int, int], multiplier: np.float32, target: Target) -> Bytes:
    """Two maps of one shape, or (N, C, 1, 1) for b (a gate): rne(float32((a − zero_a)·(b − zero_b))·m) + zero."""
    product = (_checked("a", a, np.uint8).astype(np.int32) - zeros[0]) * (b.astype(np.int32) - zeros[1])
    return to_bytes(product.astype(np.float32) * np.float32(multiplier), target)


def max_pool(spec: PoolSpec, x: Bytes) -> Bytes:
    """(N, C, H, W) → (N, C, h, w); padding does not count. A window of padding alone gives 0."""
    exact = reference.pool2d(_checked("the input", x, np.uint8), spec)
    return np.maximum(exact, 0).astype(np.uint8)


def average_pool(spec: PoolSpec, x: Bytes, zero_x: int, ratio: float, target: Target) -> Bytes:
    """(N, C, H, W) → (N, C, h, w): rne(float32(Σ (q − zero_x)) · m) + zero, m = float32(ratio / count) at each pixel.

    ``ratio`` is scale_x / scale_y; both it and the quotient are float64. The count is the spec's (see
    `fogconv.ir.geometry.PoolSpec`). An average of nothing is the target's zero.
    """
    centred = _checked("the input", x, np.uint8).astype(np.float64) - zero_x
    sums = reference.pool2d(centred, replace(spec, divisor=1)).astype(np.int32)
    factors: Floats = (np.float64(ratio) / pool_counts(spec)).astype(np.float32)
    return to_bytes(np.multiply(sums, factors, dtype=np.float32, casting="unsafe"), target)


def pool_counts(spec: PoolSpec) -> NDArray[np.int64]:
    """(h, w): by how many elements each output of an average pool is divided; at least 1 in absolute value."""
    counts = np.ones((spec.out_height, spec.out_width), np.int64)
    for row, (rows, rows_counted) in enumerate(reference.windows(spec, 0)):
        for column, (columns, columns_counted) in enumerate(reference.windows(spec, 1)):
            inside = len(range(*rows.indices(spec.height))) * len(range(*columns.indices(spec.width)))
            count = rows_counted * columns_counted if spec.count_include_pad else inside
            counts[row, column] = spec.divisor or max(1, count)
    return counts


def table(x: Bytes, entries: Bytes) -> Bytes:
    """Each byte replaced by an entry of a table of 256: any function of one number, and the change of scale in a
    concatenation (see `rescaling` and `activation_table`)."""
    return np.asarray(_checked("the table", entries, np.uint8)[_checked("x", x, np.uint8)])


def rescaling(zero_x: int, multiplier: np.float32, target: Target) -> Bytes:
    """The table that gives bytes another scale: rne(float32(q − zero_x)·m) + zero, m = float32(scale_x / scale_y)."""
    return to_bytes(_centred(np.arange(256, dtype=np.uint8), zero_x) * np.float32(multiplier), target)


def activation_table(x: Scale, out: Scale, activation: str) -> Bytes:
    """The table of an activation by its formula (see `fogconv.kernels.reference.activate`), computed in float64.

    The functions of C libraries differ in the last bit of a float64. Results are rounded to float32 first, so that halves
    are halves with any of them; that one lies on the edge between two float32 is next to impossible.
    """
    real = (np.arange(256, dtype=np.float64) - x.zero) * np.float64(np.float32(x.scale))
    with np.errstate(all="ignore"):
        result = reference.activate(real, activation) / np.float64(np.float32(out.scale))
        return to_bytes(result.astype(np.float32), Target(out.zero))


def quantise(x: Floats, scale: Scale) -> Bytes:
    """rne(x / scale) + zero, in float32; infinities give 0 or 255, NaN gives 0."""
    with np.errstate(over="ignore"):
        steps = np.divide(_checked("x", x, np.float32), np.float32(scale.scale), dtype=np.float32)
    return to_bytes(steps, Target(scale.zero))


def dequantise(x: Bytes, scale: Scale) -> Floats:
    """float32(q − zero) · scale."""
    return _centred(x, scale.zero) * np.float32(scale.scale)


def to_bytes(x: Floats, target: Target) -> Bytes:
    """clamp(rne(x) + zero, low, high); NaN gives ``low``."""
    low, high = target.low - target.zero, target.high - target.zero
    rounded = np.where(np.isnan(x), np.float32(low), np.rint(x))
    return (np.clip(rounded, low, high).astype(np.int32) + target.zero).astype(np.uint8)


def _floats(sums: Sums, bias: Sums | None) -> Floats:
    if bias is not None:
        with np.errstate(over="ignore"):
            sums = sums + _per_channel(_checked("the bias", bias, np.int32), sums.ndim)
    return _checked("the sums", sums, np.int32).astype(np.float32)


def _per_channel(values: NDArray[Any], dimensions: int) -> NDArray[Any]:
    return values.reshape(-1, *(1,) * (dimensions - 2))


def _centred(x: Bytes, zero: int) -> Floats:
    return (_checked("x", x, np.uint8).astype(np.int32) - zero).astype(np.float32)


def _checked(name: str, array: NDArray[Any], dtype: type) -> NDArray[Any]:
    if array.dtype != dtype:
        raise KernelError(f"quantisation: {name} must be {np.dtype(dtype)}, not {array.dtype}")
    return array


__all__: Sequence[str] = [
    "activation_table",
    "add",
    "average_pool",
    "conv_sums",
    "dequantise",
    "dequantise_sums",
    "linear_sums",
    "max_pool",
    "multiply",
    "pool_counts",
    "quantise",
    "requantise",
    "rescaling",
    "table",
    "to_bytes",
]
