"""Direct convolution of 16 bits: which maps are read as they are, by which tiles, and weights in pairs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.ir.arrays import blank, is_blank
from fogconv.ir.geometry import BLOCK, ConvSpec
from fogconv.ir.precision.elements import Element
from fogconv.kernels.codegen.isa import Isa, host_eights, host_pairs
from fogconv.kernels.conv.half_tile import PIXELS

PAIR = np.dtype(np.uint32)
"""Two numbers of bf16, the one of the lower channel in the lower bits."""


def reads_of(spec: ConvSpec, isa: Isa) -> Element:
    """The element of the maps that a conv in 16 bits reads: its own where this CPU multiplies such, and no pair lies in two
    groups; else fp32."""
    if spec.element == "bf16" and host_pairs(isa) and (spec.groups == 1 or spec.in_channels // spec.groups % 2 == 0):
        return "bf16"
    return "fp16" if spec.element == "fp16" and host_eights(isa) else "fp32"


def halves_isa(isa: Isa, reads: Element) -> Isa:
    """The instruction set as the tiling must see it: what is of 16 bits is not summed in quads."""
    isa = replace(isa, quads=False)
    if reads == "fp16":  # a tile has all channels of a block
        return replace(isa, vector_length=BLOCK, pixels=(PIXELS,))
    if isa.name == "neon":  # a vector of weights takes a second register while it is widened
        return replace(isa, pixels=(12, 9, 6, 5))
    return replace(isa, pixels=(26, 14, 8, 6)) if reads == "bf16" else isa


def paired(weight: NDArray[Any]) -> NDArray[Any]:
    """(f, c, K_h, K_w) of bf16 → (f, ⌈c/2⌉, K_h, K_w) of pairs."""
    f, c, kh, kw = weight.shape
    if is_blank(weight):
        return blank((f, -(-c // 2), kh, kw), PAIR.name)
    whole = np.concatenate((weight, np.zeros((f, c % 2, kh, kw), weight.dtype)), 1) if c % 2 else weight
    halves = whole.reshape(f, -1, 2, kh, kw).transpose(0, 1, 3, 4, 2)
    return np.ascontiguousarray(halves).view(PAIR)[..., 0]
