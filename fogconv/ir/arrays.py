"""Arrays: the one element type that maps and weights have."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
"""A map (N, C, H, W), or a weight."""
