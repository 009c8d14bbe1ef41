"""Arrays: the one element type of maps and weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
"""A map (N, C, H, W), or a weight."""
