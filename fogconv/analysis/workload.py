"""Workload: each rank's share of one inference, counted from the programs that run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fogconv.ir.program import Conv, Program, Send
from fogconv.planning.cost import WIRE_BYTES


@dataclass(frozen=True, slots=True)
class Workload:
    """``macs``: rank → multiply-adds of its convolutions. ``sent_bytes``: the bytes that all ranks send to one another;
    an estimate where the wire compresses."""

    macs: Mapping[int, int]
    sent_bytes: float

    @property
    def shares(self) -> dict[int, float]:
        """Rank → its share of all multiply-adds, from 0 to 1."""
        total = sum(self.macs.values())
        return {rank: macs / total if total else 0.0 for rank, macs in sorted(self.macs.items())}


def workload(programs: Sequence[Program]) -> Workload:
    macs = {program.rank: sum(step.spec.macs for step in program.steps if isinstance(step, Conv)) for program in programs}
    sent = sum(
        step.elements * program.batch * WIRE_BYTES[step.wire]
        for program in programs
        for step in program.steps
        if isinstance(step, Send)
    )
    return Workload(macs, sent)
