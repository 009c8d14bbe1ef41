"""Swapping: weights beyond a rank's memory lie on its disk, and are read for each inference.

They are cut by output channels into slices: a slice is a conv of its own, with the weights that make its channels. So only
one slice is in memory at a time, and a rank swaps no more than its limit asks for.
"""

from __future__ import annotations

from dataclasses import replace

from fogconv.ir import steps as ir
from fogconv.ir.geometry import BLOCK, ConvSpec
from fogconv.ir.memory.algorithm import cheapest, compact, cycles, packed_bytes
from fogconv.ir.program import Program

SLICE_BYTES = 8_000_000
"""The most that one slice takes, packed: small against any limit, and long enough for a disk to read at its full rate."""


def slice_channels(spec: ConvSpec) -> int:
    """The output channels of a slice of this conv: whole blocks of 16, and one at least."""
    channels = -(-spec.out_channels // BLOCK) * BLOCK
    while channels > BLOCK and slice_bytes(spec, channels) > SLICE_BYTES:
        channels = max(BLOCK, min(channels - BLOCK, channels * SLICE_BYTES // slice_bytes(spec, channels) // BLOCK * BLOCK))
    return channels


def slice_bytes(spec: ConvSpec, channels: int) -> int:
    """What so many output channels of a conv take on the disk, packed."""
    part = replace(spec, out_channels=min(channels, spec.out_channels))
    return packed_bytes(part, compact(part))


def slowdown(spec: ConvSpec) -> float:
    """How many times longer than the fastest algorithm the one takes that swapped weights are packed for; by the rule."""
    return max(1.0, cycles(spec, compact(spec)) / cycles(spec, cheapest(spec)))


def step_read_bytes(program: Program, step: ir.AnyStep) -> int:
    """What a step reads from the disk before it computes: the packed weights of a slice."""
    if not isinstance(step, ir.Conv) or step.weight not in program.swapped:
        return 0
    return packed_bytes(step.spec, compact(step.spec))


def read_bytes(program: Program) -> int:
    """What one inference reads from the disk of the rank that runs a program."""
    return sum(step_read_bytes(program, step) for step in program.steps)
