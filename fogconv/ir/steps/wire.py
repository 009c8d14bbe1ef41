"""Wire: how the values of a message are coded."""

from __future__ import annotations

from typing import Literal

import msgspec

from fogconv.ir.geometry import Span
from fogconv.ir.precision.elements import ELEMENT_BYTES, Element
from fogconv.ir.precision.scale import Precision

Wire = Literal["fp32", "fp16", "bf16", "zeros", "lz4", "zstd", "uint8", "int32"]
"""How a payload is coded: unchanged, in 16 bits, or losslessly (without its zeros, or compressed). What is no map in fp32 is
sent as it is kept, in "fp16", "bf16", "uint8" or "int32"."""

WIRES_OF_FP32: tuple[Wire, ...] = ("fp32", "fp16", "bf16", "zeros", "lz4", "zstd")
"""The ways to code a map in fp32."""

WIRE_BYTES: dict[Wire, float] = {
    "fp32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "zeros": 2.6,
    "lz4": 2.5,
    "zstd": 2.1,
    "uint8": 1.0,
    "int32": 4.0,
}
"""Bytes per element on the wire. The lossless ones depend on the values; these are for maps with 38 % zeros."""

WIRE_PASSES: dict[Wire, float] = {
    "fp32": 0.0,
    "fp16": 1.0,
    "bf16": 1.0,
    "zeros": 3.0,
    "lz4": 12.0,
    "zstd": 18.0,
    "uint8": 0.0,
    "int32": 0.0,
}
"""The cost of coding, in copies of the fp32 payload: lz4 codes 261 MB/s and zstd 178 MB/s where memory copies 3 GB/s."""


def wire_of(precision: Precision, wire: Wire) -> Wire:
    """How maps of this precision are sent where those in fp32 are sent as ``wire``."""
    return wire if precision.element == "fp32" else precision.element


def copied_bytes(element: Element, wire: Wire) -> float:
    """Bytes per element that go through memory where a map of these elements is cut, or joined, and coded."""
    kept = ELEMENT_BYTES[element]
    return kept if element == wire else kept * (1.0 + WIRE_PASSES[wire])


PIXEL_BYTES = 1.0

PIXEL_PASSES = 6.0
"""The same of a picture that is sent as bytes."""


class Pixels(msgspec.Struct, frozen=True):
    """A picture's normalisation: (byte / 255 − mean) / std, for each of the channels that are sent. Values of this form are
    sent as bytes, others as they are."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def of(self, channels: Span) -> Pixels:
        """Of some of the channels."""
        return Pixels(self.mean[channels.slice()], self.std[channels.slice()])
