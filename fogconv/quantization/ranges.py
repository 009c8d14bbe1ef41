"""Ranges: from which to which real number the bytes of a map reach.

    minmax      all values that were seen
    percentile  all but the 0.01 % at either end
    mse         where the mean squared error of rounding and cutting off is least, over the values that were seen

References: Jacob et al. 2018 (minimum and maximum); Wu et al. 2020, "Integer quantization for deep learning inference",
arXiv 2004.09602 (percentiles, errors of histograms).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fogconv.ir.arrays import Array
from fogconv.ir.precision.scale import Precision, uint8

Method = Literal["mse", "percentile", "minmax"]

BINS = 2048
PERCENTILE = 0.9999
CUTS = np.linspace(0.3, 1.0, 36)
"""Shares of the whole range that are tried."""


class Histogram:
    """The values of one map: how many in each of `BINS` between the least and the greatest, which `reach` finds first."""

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.counts: NDArray[np.float64] = np.zeros(BINS)

    def reach(self, values: Array) -> None:
        """First pass: the ends."""
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def count(self, values: Array) -> None:
        """Second pass."""
        if self.high > self.low:
            self.counts += np.histogram(values, BINS, (self.low, self.high))[0]

    def precision(self, method: Method) -> Precision:
        if method == "minmax" or not self.counts.any():
            return uint8(self.low, self.high)
        return self._percentile() if method == "percentile" else self._least_error()

    def _percentile(self) -> Precision:
        shares = np.cumsum(self.counts) / self.counts.sum()
        edges = np.linspace(self.low, self.high, BINS + 1)
        first, last = (int(at) for at in np.searchsorted(shares, (1 - PERCENTILE, PERCENTILE)))
        return uint8(float(edges[first]) if self.low < 0 else 0.0, float(edges[min(last + 1, BINS)]))

    def _least_error(self) -> Precision:
        centres = self.low + (np.arange(BINS) + 0.5) * (self.high - self.low) / BINS
        best, least = uint8(self.low, self.high), np.inf
        lows = CUTS if self.low < 0 else CUTS[-1:]
        for cut_low in lows if self.high > 0 else CUTS:
            for cut_high in CUTS if self.high > 0 else CUTS[-1:]:
                # Both ends together, and each alone: all pairs would be a thousand.
                if cut_low != cut_high and 1.0 not in (cut_low, cut_high):
                    continue
                tried = uint8(self.low * cut_low, self.high * cut_high)
                steps = np.clip(np.rint(centres / tried.scale) + tried.zero, 0, 255)
                error = float(self.counts @ np.square((steps - tried.zero) * tried.scale - centres))
                if error < least:
                    best, least = tried, error
        return best
