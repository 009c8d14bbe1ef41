"""Widening: the copies in fp32 of maps of 16 bits that a step works on which has no kernel of its own for these."""

from __future__ import annotations

from typing import get_args

from fogconv.ir import steps as ir
from fogconv.ir.geometry import BLOCK, Region
from fogconv.ir.program import Program, places_of

NO_MARGIN = (0, 0, 0, 0)


def widened_elements(program: Program, step: ir.AnyStep) -> int:
    """At most so many float32 are a step's copies."""
    if isinstance(step, ir.Gather):
        return max((widened_elements(program, piece.spare) for piece in step.pieces), default=0)
    if not isinstance(step, get_args(ir.MapStep)) or isinstance(step, ir.Copy | ir.Permute | ir.Convert):
        return 0
    return sum(
        copy_elements(program, buffer, region, margin_of(step, buffer))
        for buffer, region in dict.fromkeys(places_of(step))
        if program.buffers[buffer].precision.is_half
    )


def margin_of(step: ir.MapStep, buffer: int) -> tuple[int, int, int, int]:
    """What a step reads around its region of a buffer: a conv's padding."""
    return step.spec.padding if isinstance(step, ir.Conv) and buffer == step.source else NO_MARGIN


def copy_elements(program: Program, buffer: int, region: Region, margin: tuple[int, int, int, int]) -> int:
    """Of a copy of whole blocks around a region of a buffer."""
    top, bottom, left, right = margin
    channels, rows, columns = region.shape
    lane = (region.channels.start - program.buffers[buffer].region.channels.start) % BLOCK
    lanes = -(-(lane + channels) // BLOCK) * BLOCK
    return program.batch * lanes * (top + rows + bottom) * (left + columns + right)
