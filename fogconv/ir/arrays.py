"""Arrays: the one element type of maps and weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
"""A map (N, C, H, W), or a weight."""

_NOTHING = np.zeros((), np.float32)


def blank(shape: tuple[int, ...], kind: str = "float32") -> Array:
    """A weight that takes no memory, for what only needs its shape: packing leaves packed floats untouched, too."""
    return np.broadcast_to(_NOTHING if kind == "float32" else np.zeros((), kind), shape)


def is_blank(array: Array) -> bool:
    """Whether an array was made by `blank`."""
    return bool(array.__array_interface__["data"][0] == _NOTHING.__array_interface__["data"][0])
