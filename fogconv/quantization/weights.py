"""Weights: int8 numbers with one scale per output channel, or numbers of 16 bits; and biases that make up for what rounding
moved.

The error of a conv's output is what the errors of its weights add up to over a patch of its input. Neighbouring inputs are
alike, so errors of opposite sign cancel. After each weight is rounded, those that follow are moved by what takes back most
of its error, as the products of all pairs of inputs say.

After Frantar et al. 2022, "GPTQ: Accurate post-training quantization for generative pre-trained transformers", arXiv
2210.17323.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from fogconv.frontend.quantized.integers import Integers
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.precision.elements import Half
from fogconv.ir.precision.halves import LARGEST, floats, rounded

MOST_INPUTS = 2560
"""Of one output: the products of all pairs of more take too much memory and time."""
MOST_PIXELS = 256
"""Of each picture, and group, spread over the map."""
DAMPING = 0.01
"""Of the mean square of an input, added to each: what was seen of few pictures is not all there is."""
MOST = 127
CUTS = np.linspace(0.7, 1.0, 16)
"""Shares of a channel's greatest weight that are tried as its range."""
MOST_BIAS = 2.0**26
"""Of a bias in steps, so that sums with it do not leave 32 bits."""

Nearest = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""(f, n) of reals → the nearest that can be kept."""

Products = NDArray[np.float32]
"""(groups, n, n): the sums, over patches of inputs, of the products of each two of the n that one output reads."""


def integers_of(weight: Array, bias: Array | None, unit: float) -> Integers:
    """Of (f, c/g, K_h, K_w) float32: each channel's scale is the one of `CUTS` with the least squared error. Channels of
    next to no weights get one in which their bias, (f,), fits; ``unit`` is the scale of the conv's input."""
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    biases = np.zeros(len(rows)) if bias is None else np.abs(bias.astype(np.float64))
    greatest = np.maximum(np.abs(rows).max(axis=1), np.maximum(1e-12, MOST * biases / (unit * MOST_BIAS)))
    scales, least = greatest / MOST, np.full(len(rows), np.inf)
    for cut in CUTS:
        tried = cut * greatest / MOST
        errors = np.square(_rounded(rows, tried) * tried[:, None] - rows).sum(axis=1)
        better = errors < least
        scales, least = np.where(better, tried, scales), np.where(better, errors, least)
    kept = scales.astype(np.float32)
    values = _rounded(rows, kept.astype(np.float64)).astype(np.int8).reshape(weight.shape)
    return Integers(values, kept)


def _rounded(rows: NDArray[np.float64], scales: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(np.rint(rows / scales[:, None]), -MOST, MOST)


def corrected_bias(weight: Array, reals: Array, bias: Array | None, means: NDArray[np.float64]) -> Array:
    """The bias (f,), less what rounding the weights to ``reals`` adds on average, where the input's channels have these
    ``means``.

    After Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", arXiv 1906.04721;
    with means of real inputs. Padding is left out of account.
    """
    error = (reals.astype(np.float64) - weight).sum(axis=(2, 3))  # (f, c/g)
    f, per_group = error.shape
    groups = len(means) // per_group
    each = means.reshape(groups, per_group)[np.arange(f) // (f // groups)]
    moved = (error * each).sum(axis=1)
    return np.asarray((0.0 if bias is None else bias.astype(np.float64)) - moved, np.float32)


def has_products(spec: ConvSpec) -> bool:
    """Whether the products of its inputs are few enough to be kept."""
    return spec.weight_elements // spec.out_channels <= MOST_INPUTS


def products(spec: ConvSpec, x: Array) -> Products:
    """Of one batch of inputs, (N, c, H, W)."""
    top, bottom, left, right = spec.padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    kernel = tuple(d * (k - 1) + 1 for d, k in zip(spec.dilation, spec.kernel, strict=True))
    windows = sliding_window_view(padded, kernel, (2, 3))[
        :, :, :: spec.stride[0], :: spec.stride[1], :: spec.dilation[0], :: spec.dilation[1]
    ]
    n, c, rows, columns = windows.shape[:4]
    picked = np.linspace(0, rows * columns - 1, min(rows * columns, MOST_PIXELS)).astype(int)
    chosen = windows[:, :, picked // columns, picked % columns]  # (N, c, pixels, K_h, K_w)
    groups = spec.groups
    chosen = chosen.reshape(n, groups, c // groups, len(picked), -1).transpose(1, 0, 3, 2, 4)
    patches = np.ascontiguousarray(chosen.reshape(groups, n * len(picked), -1), np.float32)
    found: Products = np.matmul(patches.transpose(0, 2, 1), patches)
    return found


def rounded_together(weight: Array, integers: Integers, seen: Products) -> Integers:
    """The weight (f, c/g, K_h, K_w) rounded again, with the same scales."""
    rows = weight.reshape(len(seen), len(weight) // len(seen), -1).astype(np.float64)
    scales = integers.scales.astype(np.float64).reshape(*rows.shape[:2])
    steps = [_in_steps(*each) for each in zip(rows, scales, seen, strict=True)]
    return Integers(np.stack(steps).astype(np.int8).reshape(weight.shape), integers.scales)


def _in_steps(rows: NDArray[np.float64], scales: NDArray[np.float64], seen: NDArray[np.float32]) -> NDArray[np.float64]:
    def nearest(reals: NDArray[np.float64]) -> NDArray[np.float64]:
        return _rounded(reals, scales) * scales[:, None]

    return np.rint(_of_group(rows, seen, nearest) / scales[:, None])


def halves_together(weight: Array, half: Half, seen: Products) -> NDArray[Any]:
    """The weight (f, c/g, K_h, K_w) in 16 bits, as `fogconv.ir.precision.halves.rounded` gives it. What is moved stays
    finite."""
    most = LARGEST[half]

    def nearest(reals: NDArray[np.float64]) -> NDArray[np.float64]:
        return floats(rounded(np.clip(reals, -most, most).astype(np.float32), half)).astype(np.float64)

    rows = weight.reshape(len(seen), len(weight) // len(seen), -1).astype(np.float64)
    reals = np.stack([_of_group(own, each, nearest) for own, each in zip(rows, seen, strict=True)])
    return rounded(reals.astype(np.float32).reshape(weight.shape), half)


def _of_group(rows: NDArray[np.float64], seen: NDArray[np.float32], nearest: Nearest) -> NDArray[np.float64]:
    """(f, n) of reals that ``nearest`` keeps."""
    squares = seen.astype(np.float64)
    mean = float(np.trace(squares)) / len(squares)
    if mean <= 0:
        return nearest(rows)
    # Inputs of large squares first: they have the most others left to make up for their errors.
    order = np.argsort(-np.diag(squares), kind="stable")
    squares = squares[np.ix_(order, order)]
    squares[np.diag_indices_from(squares)] += DAMPING * mean
    factor = np.linalg.cholesky(np.linalg.inv(squares)).T  # upper: what each error moves in those after it
    left, kept = rows[:, order].copy(), np.empty_like(rows)
    for at in range(len(squares)):
        kept[:, at] = nearest(left[:, at : at + 1])[:, 0]
        error = (left[:, at] - kept[:, at]) / factor[at, at]
        left[:, at + 1 :] -= error[:, None] * factor[at, at + 1 :]
    found = np.empty_like(kept)
    found[:, order] = kept
    return found
