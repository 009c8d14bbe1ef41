"""Gather: pieces of a guarded layer, each of them checked or replaced."""

from __future__ import annotations

import msgspec

from fogconv.ir.geometry import Region
from fogconv.ir.steps.map_steps import Conv
from fogconv.ir.steps.step import Step
from fogconv.ir.steps.transfers import Recv


class Check(msgspec.Struct, frozen=True):
    """A check of one piece: ``signs`` (k, channels) · piece = the k channels of ``region`` in buffer ``source``."""

    source: int
    region: Region
    signs: str


class Piece(msgspec.Struct, frozen=True):
    """A part of a conv's result that comes from another rank. ``spare`` computes the same on the master, from its own
    input."""

    recv: Recv
    spare: Conv
    check: Check | None = None


class Gather(Step, frozen=True, tag=True):
    """Master: wait for all pieces, in any order, and replace those that are lost, late or wrong.

    ``code`` is the sum of all pieces, each padded with zero channels to the largest and starting at channel 0: with it,
    one missing piece is recovered by subtraction. Other missing pieces are computed here, and so are those not received
    after ``patience_s`` (0: wait as long as a Recv would).
    """

    pieces: tuple[Piece, ...]
    code: Recv | None = None
    patience_s: float = 0.0


def gathers(step: Gather) -> tuple[Recv, ...]:
    """All messages that a Gather may take."""
    return (*(piece.recv for piece in step.pieces), *(() if step.code is None else (step.code,)))
