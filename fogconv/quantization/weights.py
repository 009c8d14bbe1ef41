"""Weights: int8 numbers with one scale per output channel, and biases that make up for what rounding moved."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fogconv.frontend.quantized.integers import Integers
from fogconv.ir.arrays import Array

MOST = 127
CUTS = np.linspace(0.7, 1.0, 16)
"""Shares of a channel's greatest weight that are tried as its range."""


MOST_BIAS = 2.0**26
"""Of a bias in steps, so that sums with it do not leave 32 bits."""


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


def corrected_bias(weight: Array, integers: Integers, bias: Array | None, means: NDArray[np.float64]) -> Array:
    """The bias (f,), less what the rounding of the weights adds on average, where the input's channels have these means.

    After Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", arXiv 1906.04721;
    with means of real inputs. Padding is left out of account.
    """
    error = (integers.reals.astype(np.float64) - weight).sum(axis=(2, 3))  # (f, c/g)
    f, per_group = error.shape
    groups = len(means) // per_group
    each = means.reshape(groups, per_group)[np.arange(f) // (f // groups)]
    moved = (error * each).sum(axis=1)
    return np.asarray((0.0 if bias is None else bias.astype(np.float64)) - moved, np.float32)
