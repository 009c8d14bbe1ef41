"""Pack and unpack: NCHW arrays into blocked maps, and back."""

from __future__ import annotations

import numpy as np

from fogconv.errors import KernelError
from fogconv.ir.arrays import Array
from fogconv.kernels.maps.blocked import Blocked, Margin


def pack(x: Array, margin: Margin = Margin(), out: Blocked | None = None) -> Blocked:
    """NCHW (N, C, H, W) float32 → blocked, into ``out`` where given (its margin is not written).

    Raises KernelError for another type, and where ``out`` has another shape.
    """
    from fogconv.kernels.maps.transpose import bind_pack  # imported here, so that the layout can be used without numba

    if x.ndim != 4:
        raise KernelError(f"only (N, C, H, W) can be packed, not an array of the shape {x.shape}")
    batch, channels, height, width = x.shape
    out = Blocked.empty(batch, channels, height, width, margin) if out is None else out
    bind_pack(np.ascontiguousarray(x), out)()
    return out


def unpack(x: Blocked, out: Array | None = None) -> Array:
    """Blocked → NCHW (N, C, H, W) float32: a new contiguous array, or ``out`` where given.

    Raises KernelError where ``out`` has another shape or type, or gaps between its rows.
    """
    from fogconv.kernels.maps.transpose import bind_unpack

    out = np.empty((x.batch, x.channels, x.height, x.width), np.float32) if out is None else out
    bind_unpack(x, out)()
    return out
