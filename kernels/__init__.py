"""Kernels: numpy and numba only.

The public names are imported on first use, so that `fogconv.kernels.maps.blocked` stays free of numba.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fogconv.kernels.conv.conv import conv2d, prepare_conv2d
    from fogconv.kernels.maps.pack import pack, unpack

__all__ = ["conv2d", "pack", "prepare_conv2d", "unpack"]

_HOME = {"conv2d": "conv.conv", "prepare_conv2d": "conv.conv", "pack": "maps.pack", "unpack": "maps.pack"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
