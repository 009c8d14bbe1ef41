"""Transfers: regions of buffers on their way from rank to rank."""

from __future__ import annotations

import msgspec

from fogconv.ir.geometry import Region
from fogconv.ir.steps.step import Step
from fogconv.ir.steps.wire import PIXEL_BYTES, WIRE_BYTES, Pixels, Wire


class Part(msgspec.Struct, frozen=True):
    """A region of a buffer, as part of a message."""

    buffer: int
    region: Region


class Send(Step, frozen=True, tag=True):
    """Send ``region`` of a buffer to another rank, with the parts ``more`` in the same message."""

    source: int
    region: Region
    to: int
    tag: int
    wire: Wire = "fp32"
    more: tuple[Part, ...] = ()
    pixels: Pixels | None = None

    @property
    def element_bytes(self) -> float:
        """Of an element on the wire, as `WIRE_BYTES`."""
        return WIRE_BYTES[self.wire] if self.pixels is None else PIXEL_BYTES

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part(self.source, self.region), *self.more)

    @property
    def elements(self) -> int:
        """Of all parts, per image of the batch."""
        return sum(part.region.elements for part in self.parts)


class Recv(Step, frozen=True, tag=True):
    """Wait for a region from another rank and write it into a buffer, or add it where ``accumulate`` is set.

    ``more`` are the message's further parts, in the order in which they were sent; they are never added.
    """

    target: int
    region: Region
    origin: int
    tag: int
    accumulate: bool = False
    wire: Wire = "fp32"
    more: tuple[Part, ...] = ()
    pixels: Pixels | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part(self.target, self.region), *self.more)

    @property
    def elements(self) -> int:
        """Of all parts, per image of the batch."""
        return sum(part.region.elements for part in self.parts)
