"""Guard: steps with which the master needs not believe, nor wait for, what workers compute of a star's convs.

    check     the sum over a piece's output channels, and sums with random signs, against one conv whose filters are summed
              in the same way, computed by the master from its own input (algorithm-based fault tolerance)
    code      one more worker's conv with the sum of all pieces' filters: any one piece is the code minus the others
    patience  how long a piece may take before the master computes it itself; the first result wins

Convolution is linear, so all of this holds before the activation: guarded work is raw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PROJECTIONS = 8
"""Sums per piece: the plain one and seven with random signs. A change that one sum does not see, another one does; the
kernels compute 16 channels at a time anyway."""


@dataclass(frozen=True, slots=True)
class Protection:
    """What the user asked for: ``verify`` every piece, ``redundancy`` 0 or 1, ``patience`` a multiple of the predicted time
    (0: none)."""

    verify: bool = False
    redundancy: int = 0
    patience: float = 0.0

    def __bool__(self) -> bool:
        return self.verify or self.redundancy > 0 or self.patience > 0


@dataclass(frozen=True, slots=True)
class Guard:
    """The protection of one layer. ``code`` is the rank that computes the sum of the pieces."""

    verify: bool = False
    code: int | None = None
    patience_s: float = 0.0


def signs(channels: int, seed: int) -> NDArray[np.float32]:
    """(k, channels) of ±1, the first row all ones; the same for the same seed."""
    rows = np.random.default_rng(seed).choice(np.array([-1.0, 1.0], np.float32), (PROJECTIONS, channels))
    rows[0] = 1.0
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
