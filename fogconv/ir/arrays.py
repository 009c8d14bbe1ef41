"""Arrays: the one element type of maps and weights; what a weight is known by."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
"""A map (N, C, H, W), or a weight."""

_NOTHING = {kind: np.zeros((), kind) for kind in ("float32", "float16", "uint16", "uint32", "int8", "int32", "uint8")}
_NOWHERE = {array.__array_interface__["data"][0] for array in _NOTHING.values()}


def blank(shape: tuple[int, ...], kind: str = "float32") -> Array:
    """A weight that takes no memory, for what only needs its shape: packing leaves packed floats untouched, too."""
    return np.broadcast_to(_NOTHING[kind], shape)


def is_blank(array: Array) -> bool:
    """Whether an array was made by `blank`."""
    return array.__array_interface__["data"][0] in _NOWHERE


def weight_key(array: NDArray[Any]) -> str:
    """The content hash that identifies an array on the wire: BLAKE2b over dtype, shape and bytes, as 32 hex digits."""
    digest = hashlib.blake2b(f"{array.dtype.str}{array.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
