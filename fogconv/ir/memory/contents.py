"""Contents: what steps expect in a buffer that no step of the same inference wrote.

margin        zeros, which every conv reads for its padding; they are written again where another map lay
unused lanes  of the last block: finite numbers, where a fully connected layer multiplies them by 0
what is late  rows and columns that Winograd's tiles read beyond a conv's own input: finite numbers, which cancel out
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from fogconv.ir import steps as ir
from fogconv.ir.geometry import BLOCK, Region, subtract
from fogconv.ir.memory.algorithm import candidates, reads_beyond
from fogconv.ir.program import Program, buffers_of, places_of, written
from fogconv.ir.steps import MapStep

LANE_BY_LANE = (ir.Add, ir.Affine, ir.Elementwise, ir.Gate, ir.GlobalPool, ir.Interleave, ir.Pool, ir.Resample)
"""An unused lane of what they read is at most in an unused lane of what they write."""

BY_CHANNEL = (ir.Copy, ir.Input, ir.Output, ir.Recv, ir.Send)
"""They read no lane but those of channels, and write no other."""


@dataclass(frozen=True, slots=True)
class Expected:
    """``finite``: the buffers in which finite numbers are expected beforehand, outside their margins. ``alone``: those that
    share with no other: a sum may have terms of lanes that a step does not read as channels, and in which other maps, of
    whatever form, have channels."""

    finite: frozenset[int]
    alone: frozenset[int]


def expected(program: Program) -> Expected:
    """Of a program's buffers."""
    parts = _read_in_part(program)
    lanes = _lanes_in_sums(program, parts)
    return Expected(frozenset(lanes | late(program)), frozenset(lanes & parts))


def _read_in_part(program: Program) -> set[int]:
    """The buffers of which a step reads, or writes, channels that end inside a block, and not with the buffer."""
    found: set[int] = set()
    for step in program.steps:
        if isinstance(step, MapStep) and not isinstance(step, BY_CHANNEL):
            for number, region in places_of(step):
                held = program.buffers[number].region.channels
                if region.channels.stop < held.stop and (region.channels.stop - held.start) % BLOCK:
                    found.add(number)
    return found


def _lanes_in_sums(program: Program, parts: Collection[int]) -> set[int]:
    """The buffers whose unused lanes may be terms of a sum, with those that are read in ``parts``. Steps on other types than
    fp32 are not examined."""
    partial = {number for number, buffer in enumerate(program.buffers) if len(buffer.region.channels) % BLOCK}
    partial |= set(parts)
    found = {number for number in partial if program.buffers[number].precision.element != "fp32"}
    known = -1
    while partial and known != len(found):
        known = len(found)
        for step in reversed(program.steps):
            found.update(partial.intersection(_lanes_read(step, found)))
    return found


def _lanes_read(step: ir.AnyStep, wanted: Collection[int]) -> Iterable[int]:
    """The buffers of whose unused lanes a step may make something, where those of the buffers ``wanted`` count."""
    if isinstance(step, BY_CHANNEL):
        return ()
    if isinstance(step, ir.Conv) and candidates(step.spec)[0] == "direct":
        return () if step.residual is None or step.target not in wanted else (step.residual,)
    if isinstance(step, LANE_BY_LANE) and step.target not in wanted:
        return ()
    return buffers_of(step)


def late(program: Program) -> set[int]:
    """The buffers that Winograd's tiles may read before they are complete."""
    beyond = {id(conv) for step in program.steps for conv in _convs(step) if reads_beyond(conv.spec)}
    sources = {conv.source for step in program.steps for conv in _convs(step) if id(conv) in beyond}
    missing: dict[int, tuple[Region, ...]] = {number: (program.buffers[number].region,) for number in sources}
    found: set[int] = set()
    for step in program.steps if sources else ():
        found.update(conv.source for conv in _convs(step) if id(conv) in beyond and missing[conv.source])
        for number, region in written(step):
            if missing.get(number):
                missing[number] = tuple(piece for box in missing[number] for piece in subtract(box, (region,)))
    return found


def _convs(step: ir.AnyStep) -> Iterator[ir.Conv]:
    if isinstance(step, ir.Conv):
        yield step
    elif isinstance(step, ir.Gather):
        yield from (piece.spare for piece in step.pieces)
