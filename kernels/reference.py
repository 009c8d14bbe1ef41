"""The reference: every layer in plain float64 NumPy, slow and simple. Tests compare the kernels with it.

All maps are NCHW. Letters as in `fogconv.ir.geometry`: c, f channels; g groups; H×W in, h×w out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.errors import KernelError
from fogconv.ir.geometry import ConvSpec, PoolSpec, Taps

Float64 = NDArray[np.float64]
Real = NDArray[Any]


def conv2d(x: Real, weight: Real, bias: Real | None, spec: ConvSpec) -> Float64:
    """(N, c, H, W), (f, c/g, K_h, K_w), (f,) → (N, f, h, w): one matrix product per tap and group.

    Raises KernelError for shapes that are not the spec's.
    """
    _expect("input", x, spec.input_shape)
    _expect("weight", weight, spec.weight_shape)
    x = _pad(x, spec)
    out = np.zeros(spec.output_shape)
    for group_in, group_out in _groups(spec):
        for (i, j), tap in _taps(spec):
            w = np.asarray(weight[group_out, :, i, j], np.float64)
            out[:, group_out] += np.einsum("fc,nchw->nfhw", w, x[(slice(None), group_in, *tap)], optimize=True)
    if bias is not None:
        _expect("bias", bias, (spec.out_channels,))
        out += np.asarray(bias, np.float64)[:, None, None]
    return out


def conv2d_grad_input(grad_out: Real, weight: Real, spec: ConvSpec) -> Float64:
    """(N, f, h, w), (f, c/g, K_h, K_w) → (N, c, H, W): the adjoint of ``conv2d`` in its input."""
    _expect("grad_out", grad_out, spec.output_shape)
    _expect("weight", weight, spec.weight_shape)
    top, bottom, left, right = spec.padding
    padded = np.zeros((spec.batch, spec.in_channels, spec.height + top + bottom, spec.width + left + right))
    grad = np.asarray(grad_out, np.float64)
    for group_in, group_out in _groups(spec):
        for (i, j), tap in _taps(spec):
            w = np.asarray(weight[group_out, :, i, j], np.float64)
            padded[(slice(None), group_in, *tap)] += np.einsum("fc,nfhw->nchw", w, grad[:, group_out], optimize=True)
    return padded[:, :, top : top + spec.height, left : left + spec.width]


def conv2d_grad_weight(x: Real, grad_out: Real, spec: ConvSpec) -> Float64:
    """(N, c, H, W), (N, f, h, w) → (f, c/g, K_h, K_w): the adjoint of ``conv2d`` in its weight."""
    _expect("input", x, spec.input_shape)
    _expect("grad_out", grad_out, spec.output_shape)
    x = _pad(x, spec)
    grad = np.asarray(grad_out, np.float64)
    out = np.zeros(spec.weight_shape)
    for group_in, group_out in _groups(spec):
        for (i, j), tap in _taps(spec):
            part = x[(slice(None), group_in, *tap)]
            out[group_out, :, i, j] = np.einsum("nfhw,nchw->fc", grad[:, group_out], part, optimize=True)
    return out


def linear(x: Real, weight: Real, bias: Real | None) -> Float64:
    """(N, c), (f, c), (f,) → (N, f)."""
    out = np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T
    return out if bias is None else out + np.asarray(bias, np.float64)


def pool2d(x: Real, spec: PoolSpec) -> Float64:
    """(N, C, H, W) → (N, C, h, w), as torch defines it: see `fogconv.ir.geometry.PoolSpec`.

    A max over padding alone is −inf, an average of nothing is 0; NaN is greater than every number.
    """
    _expect("input", x, (spec.batch, spec.channels, spec.height, spec.width))
    if spec.kind == "avg" and spec.dilation != (1, 1):
        raise KernelError(f"average pooling has no dilation, here {spec.dilation}")
    x = np.asarray(x, np.float64)
    out = np.zeros((spec.batch, spec.channels, spec.out_height, spec.out_width))
    for row, (rows, rows_counted) in enumerate(windows(spec, 0)):
        for column, (columns, columns_counted) in enumerate(windows(spec, 1)):
            window = x[:, :, rows, columns]
            if spec.kind == "max":
                out[:, :, row, column] = window.max(axis=(2, 3), initial=-np.inf)
            elif window.shape[2] and window.shape[3]:
                inside = window.shape[2] * window.shape[3]
                count = rows_counted * columns_counted if spec.count_include_pad else inside
                out[:, :, row, column] = window.sum(axis=(2, 3)) / (spec.divisor or count)
    return out


def resample(x: Real, rows: Taps, columns: Taps, fill: float = 0.0) -> Float64:
    """(N, C, H, W) → (N, C, h, w): weighted sums along rows, then along columns; ``fill`` where an axis has no tap."""
    _expect("input", x, (*x.shape[:2], rows.size, columns.size))
    out = np.asarray(x, np.float64)
    for axis, taps in ((2, rows), (3, columns)):
        moved, matrix = np.moveaxis(out, axis, -1), _matrix(taps)
        out = np.moveaxis(moved @ matrix.T, -1, axis)
    empty = [[start < 0 for start in taps.starts] for taps in (rows, columns)]
    return np.where(np.logical_or.outer(*empty), fill, out)


def _matrix(taps: Taps) -> Float64:
    """(outputs, inputs)"""
    matrix = np.zeros((len(taps.starts), taps.size))
    for k, start in enumerate(taps.starts):
        if start >= 0:
            own = taps.weights[k] if taps.weights else (1.0,)
            matrix[k, start : start + len(own)] = own
    return matrix


def interleave(sources: Sequence[Real], factors: tuple[int, int], first: tuple[int, int], size: tuple[int, int]) -> Float64:
    """s·t maps (N, C, h, w) → (N, C, *size): rows and columns of the phases by turns, from place ``first`` on."""
    s, t = factors
    n, c, h, w = sources[0].shape
    grid = np.asarray(sources, np.float64).reshape(s, t, n, c, h, w)
    whole = grid.transpose(2, 3, 4, 0, 5, 1).reshape(n, c, h * s, w * t)
    return whole[:, :, first[0] : first[0] + size[0], first[1] : first[1] + size[1]]


def activate(x: Real, activation: str | None) -> Float64:
    """One of the `FUNCTIONS`, written "name" or "name(number, …)", or nothing. Raises KernelError for another name."""
    x = np.asarray(x, np.float64)
    if activation is None:
        return x
    name, _, numbers = activation.partition("(")
    if name not in FUNCTIONS:
        raise KernelError(f"there is no activation {name!r}")
    parameters = [float(number) for number in numbers.removesuffix(")").split(",")] if numbers else []
    with np.errstate(all="ignore"):
        return np.asarray(FUNCTIONS[name](x, *parameters))


def _elu(x: Float64, alpha: float, scale: float, inner: float) -> Float64:
    return np.where(x > 0, scale * x, scale * alpha * np.expm1(inner * x))


def _gelu(x: Float64, scale: float) -> Float64:
    return np.asarray(scale * x * (1.0 + _erf(x / np.sqrt(2.0))))


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _softplus(x: Float64, beta: float = 1.0, threshold: float = np.inf) -> Float64:
    return np.where(beta * x > threshold, x, np.logaddexp(0.0, beta * x) / beta)


def _mish(x: Float64) -> Float64:
    return np.asarray(x * np.tanh(_softplus(x)))


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "silu": lambda x: x / (1.0 + np.exp(-x)),
    "hardswish": lambda x: x * np.clip(x + 3.0, 0.0, 6.0) / 6.0,
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "hardsigmoid": lambda x: np.clip(x + 3.0, 0.0, 6.0) / 6.0,
    "leaky_relu": lambda x, slope: np.where(x > 0, x, slope * x),
    "clip": lambda x, low, high: np.minimum(np.maximum(x, low), high),
    "elu": _elu,
    "gelu": _gelu,
    "gelu_tanh": lambda x: x / (1.0 + np.exp(-2.0 * np.sqrt(2.0 / np.pi) * x * (1.0 + 0.044715 * x * x))),
    "swish": lambda x, beta: x / (1.0 + np.exp(-beta * x)),
    "mish": _mish,
    "softplus": _softplus,
    "log_sigmoid": lambda x: -_softplus(-x),
    "softsign": lambda x: x / (1.0 + np.abs(x)),
    "hard_sigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0.0, 1.0),
    "hard_gate": lambda x, alpha, beta, high: x * np.clip(alpha * x + beta, 0.0, high),
    "tanh": np.tanh,
    "erf": _erf,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "reciprocal": lambda x: 1.0 / x,
    "abs": np.abs,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.round,
}
"""torch's functions of one number, in float64, by the names of `fogconv.kernels.codegen.formulas`."""


def _groups(spec: ConvSpec) -> Iterator[tuple[slice, slice]]:
    """The input and the output channels of each group."""
    c, f = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    for group in range(spec.groups):
        yield slice(group * c, (group + 1) * c), slice(group * f, (group + 1) * f)


def _taps(spec: ConvSpec) -> Iterator[tuple[tuple[int, int], tuple[slice, slice]]]:
    """For each kernel element the rows and columns of the padded input that it meets, one for each output."""
    for i in range(spec.kernel[0]):
        for j in range(spec.kernel[1]):
            row, column = i * spec.dilation[0], j * spec.dilation[1]
            rows = slice(row, row + (spec.out_height - 1) * spec.stride[0] + 1, spec.stride[0])
            columns = slice(column, column + (spec.out_width - 1) * spec.stride[1] + 1, spec.stride[1])
            yield (i, j), (rows, columns)


def windows(spec: PoolSpec, axis: int) -> Iterator[tuple[slice, int]]:
    """For each output along an axis the inputs of its window, and how many elements it has with the padding."""
    size = (spec.height, spec.width)[axis]
    before, after = spec.padding[2 * axis : 2 * axis + 2]
    kernel, stride, dilation = spec.kernel[axis], spec.stride[axis], spec.dilation[axis]
    for index in range((spec.out_height, spec.out_width)[axis]):
        first = index * stride - before
        counted = min(first + kernel, size + after) - first
        skipped = max(0, -(first // dilation)) if first < 0 else 0
        stop = min(first + dilation * (kernel - 1) + 1, size)
        start = first + skipped * dilation
        yield slice(start, max(start, stop), dilation), counted


def _pad(x: Real, spec: ConvSpec) -> Float64:
    top, bottom, left, right = spec.padding
    return np.pad(np.asarray(x, np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))


def _expect(name: str, array: Real, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise KernelError(f"{name} has the shape {array.shape}; the layer takes {shape}")
