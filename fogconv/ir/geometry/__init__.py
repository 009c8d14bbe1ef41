"""Geometry: the shapes of layers, of steps and of pieces of tensors.

Everything here is exact integer arithmetic; no NumPy.
"""

from __future__ import annotations

from fogconv.ir.geometry.blocks import BLOCK, NARROW
from fogconv.ir.geometry.conv_spec import BYTES_PER_ELEMENT, ConvSpec, mirrored
from fogconv.ir.geometry.map_spec import MapSpec, PoolSpec, StepSpec
from fogconv.ir.geometry.region import NOTHING, ROW_START, Region, Span, bounding, subtract
from fogconv.ir.geometry.taps import Taps

__all__ = [
    "BLOCK",
    "BYTES_PER_ELEMENT",
    "NARROW",
    "NOTHING",
    "ROW_START",
    "ConvSpec",
    "MapSpec",
    "PoolSpec",
    "Region",
    "Span",
    "StepSpec",
    "Taps",
    "bounding",
    "mirrored",
    "subtract",
]
