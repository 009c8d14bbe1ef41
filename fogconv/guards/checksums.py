"""Checksums and sums of filters: the arithmetic of checked and coded pieces."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

PROJECTIONS = 16
"""Sums per piece: as many channels as the kernels compute at a time anyway. Errors that cancel in one sum are visible in
another."""


SUMMED = 64
"""Channels per sum, up to 512 in all: rounding grows with the square root of their number, and hides relevant bit
flips."""


FEWEST_SUMS = 2
"""The number of sums that include each channel."""


def signs(channels: int, seed: int) -> NDArray[np.float32]:
    """(PROJECTIONS, channels) of ±1 and 0; the same for the same seed.

    The channels are cut into as many runs as needed, and the rows are divided among them: each row sums one run. Half of
    its signs are minus, so that the common part of all channels, and its rounding, cancels.
    """
    rng = np.random.default_rng(seed)
    runs = min(PROJECTIONS // FEWEST_SUMS, -(-channels // SUMMED))
    rows = np.zeros((PROJECTIONS, channels), np.float32)
    for number, row in enumerate(rows):
        run = row[channels * (number % runs) // runs : channels * (number % runs + 1) // runs]
        run[:] = rng.permutation(np.resize(np.array([1.0, -1.0], np.float32), len(run)))
    return rows


def projected(rows: NDArray[np.float32], weight: NDArray[np.floating]) -> NDArray[np.float32]:
    """rows (k, f) · weight (f, …) = (k, …): the filters, or biases, of the check. Summed in float64, returned in float32."""
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    return np.ascontiguousarray((rows.astype(np.float64) @ flat).reshape(len(rows), *weight.shape[1:]), np.float32)


def summed(parts: list[NDArray[np.floating]]) -> NDArray[np.float32]:
    """The sum of filters (or biases) of all pieces, those with fewer output channels padded with zeros."""
    most = max(len(part) for part in parts)
    total = np.zeros((most, *parts[0].shape[1:]), np.float64)
    for part in parts:
        total[: len(part)] += part
    return np.ascontiguousarray(total, np.float32)


def disagreement(rows: NDArray[np.floating], part: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """The largest difference between the sums of a piece (n, f, …) and the expected ones (n, k, …). NaN where the piece
    contains NaN."""
    with np.errstate(invalid="ignore", over="ignore"):
        found = rows @ part.transpose(1, 0, 2, 3).reshape(part.shape[1], -1)
        return float(np.abs(found - expected.transpose(1, 0, 2, 3).reshape(len(rows), -1)).max())


def remaining(code: NDArray[np.floating], others: Iterable[NDArray[np.floating]], channels: int) -> NDArray[np.float32]:
    """The one missing piece, of so many channels: the code (n, f, …) minus all others."""
    total = code.astype(np.float64)
    for part in others:
        total[:, : part.shape[1]] -= part
    return np.ascontiguousarray(total[:, :channels], np.float32)


def dense(weight: NDArray[np.floating], groups: int) -> NDArray[np.floating]:
    """A grouped conv's weight (f, c/g, K_h, K_w) as that of a dense one, (f, c, K_h, K_w), zero outside its groups."""
    f, c = weight.shape[:2]
    whole = np.zeros((f, c * groups, *weight.shape[2:]), weight.dtype)
    per_group = f // groups
    for group in range(groups):
        rows = slice(group * per_group, (group + 1) * per_group)
        whole[rows, group * c : (group + 1) * c] = weight[rows]
    return whole
