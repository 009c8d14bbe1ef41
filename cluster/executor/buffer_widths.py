"""Narrow buffers: which maps of a program hold 4 lanes a pixel instead of 16 (see `fogconv.kernels.maps.blocked`).

An image is read by the first convolution, and on its way there packed, sent and received: all of that takes narrow maps.
"""

from __future__ import annotations

from fogconv.ir import program as steps
from fogconv.ir.geometry import NARROW
from fogconv.ir.program import Program
from fogconv.kernels.conv.select import reads_narrow


def narrow_buffers(program: Program) -> frozenset[int]:
    """The buffers of up to 4 channels that convolutions read and that gain by being narrow, unless a step that needs
    16 lanes touches them, too."""
    few: set[int | None] = {n for n, buffer in enumerate(program.buffers) if 0 < len(buffer.region.channels) <= NARROW}
    gaining: set[int] = set()
    for step in program.steps if few else ():
        match step:
            case steps.Input() | steps.Output() | steps.Send() | steps.Recv() | steps.Host():
                continue
            case steps.Conv():
                convs = [step]
            case steps.Gather():  # what it receives may be narrow; its spares are convolutions like others
                convs = [piece.spare for piece in step.pieces]
            case _:
                few -= _touched(step)
                continue
        for conv in convs:
            few -= {conv.target, conv.residual}
            if reads_narrow(conv.spec):
                gaining.add(conv.source)
            else:
                few.discard(conv.source)
    return frozenset(gaining & few)


def _touched(step: steps.AnyStep) -> set[int | None]:
    """Every buffer that a step names."""
    single = {getattr(step, name, None) for name in ("source", "target", "gate", "residual")}
    return single | set(getattr(step, "sources", ())) | set(getattr(step, "targets", ()))
