"""Planes: blocked maps as NCHW arrays and back, for kernels that take those, whatever the element type."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.ir.geometry import BLOCK
from fogconv.kernels.maps.blocked import Blocked


def planes(view: Blocked) -> NDArray[Any]:
    """(N, C, H, W): a copy."""
    batch, blocks, height, width, _ = view.interior.shape
    return view.interior.transpose(0, 1, 4, 2, 3).reshape(batch, blocks * BLOCK, height, width)[:, : view.channels]


def store(values: NDArray[Any], view: Blocked, beyond: int | float = 0) -> None:
    """Write (N, C, H, W) into a view; ``beyond`` into the lanes after its last channel."""
    batch, blocks, height, width, _ = view.interior.shape
    whole = np.full((batch, blocks * BLOCK, height, width), beyond, view.data.dtype)
    whole[:, : view.channels] = values
    view.interior[...] = whole.reshape(batch, blocks, BLOCK, height, width).transpose(0, 1, 3, 4, 2)
