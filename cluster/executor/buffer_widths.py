"""Narrow buffers: the maps of a program with 4 lanes per pixel instead of 16 (see `fogconv.kernels.maps.blocked`).

An image is packed, sent and received, then read by the first convolution; phases of a finer grid are interleaved, then
unpacked or sent: all of these support narrow maps.
"""

from __future__ import annotations

from fogconv.ir import steps
from fogconv.ir.geometry import NARROW
from fogconv.ir.program import Program, buffers_of
from fogconv.kernels.conv.select import reads_narrow


def narrow_buffers(program: Program) -> frozenset[int]:
    """The buffers of up to 4 channels that convolutions read and for which narrow maps are faster, and those that are
    interleaved, unless a step that needs 16 lanes uses them as well."""
    few: set[int | None] = {
        n
        for n, buffer in enumerate(program.buffers)
        if 0 < len(buffer.region.channels) <= NARROW and buffer.precision.element == "fp32"
    }
    gaining: set[int] = set()
    for step in program.steps if few else ():
        match step:
            case steps.Input() | steps.Output() | steps.Send() | steps.Recv() | steps.Host():
                continue
            case steps.Interleave():
                # It writes a map of the picture's size: with 16 lanes mostly what nothing reads.
                gaining.add(step.target)
                few -= set(step.sources)
                continue
            case steps.Conv():
                convs = [step]
            case steps.Gather():  # its received maps may be narrow; its spares are ordinary convolutions
                convs = [piece.spare for piece in step.pieces]
            case _:
                few -= set(buffers_of(step))
                continue
        for conv in convs:
            few -= {conv.target, conv.residual}
            if reads_narrow(conv.spec):
                gaining.add(conv.source)
            else:
                few.discard(conv.source)
    return frozenset(gaining & few)
