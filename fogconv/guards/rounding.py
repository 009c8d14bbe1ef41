"""Rounding: the largest error of a piece's sums that rounding alone can cause."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

VALUE_ROUNDING = 2e-5
"""The allowed error of the sums of n channels, as a share of the piece's largest value, times √n; three times the
measured one."""
TERM_ROUNDING = {False: 2 * 2.0**-24, True: 8 * 2.0**-24}
"""Or as a share of the largest sum of absolute terms, times √n, without and with Winograd; larger where the terms cancel.
Twice the measured one."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """The bound for sums of at most ``channels`` channels. ``per_input``: the bound by the terms, for inputs of at most
    1."""

    channels: int
    per_input: float

    @classmethod
    def of(cls, rows: NDArray[np.floating], weight: NDArray[np.floating], *, grouped: bool, winograd: bool) -> Rounding:
        """``rows`` (k, f) are the signs, ``weight`` (f, …) the piece's filters."""
        n = int(np.count_nonzero(rows, axis=1).max())
        # A grouped conv's filters read different inputs: their absolute sums add up.
        together = n if grouped else np.sqrt(n)
        per_input = TERM_ROUNDING[winograd] * together * float(np.abs(weight).reshape(len(weight), -1).sum(1).max())
        return cls(n, per_input)

    def most(self, largest_value: float, largest_input: float) -> float:
        """The bound for a piece and an input with these largest absolute values."""
        return max(VALUE_ROUNDING * float(np.sqrt(self.channels)) * largest_value, self.per_input * largest_input, 1e-30)
