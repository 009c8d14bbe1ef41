"""Workload: each rank's share of one inference, counted from the programs that run, and timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fogconv.ir.graph import LayerGraph
from fogconv.ir.memory.swapping import read_bytes
from fogconv.ir.program import Program
from fogconv.ir.steps import Conv, Gather, Recv, Send


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


@dataclass(frozen=True, slots=True)
class RankWork:
    """One rank in one inference. ``convs``: the number of convolutions that it has a part in. ``share``: its part of all
    multiply-adds (0 to 1), those of linear layers too. Seconds are of computing, and of waiting for data. ``sent_bytes``:
    see `Workload`. ``read_bytes``: swapped weights, from its disk."""

    rank: int
    convs: int
    share: float
    computing_s: float
    waiting_s: float
    sent_bytes: float
    read_bytes: int = 0


def rank_works(
    graph: LayerGraph, programs: Sequence[Program], times: Mapping[int, NDArray[np.int64]]
) -> tuple[RankWork, ...]:
    """Of every rank, in order. ``programs``: of a plan for ``graph``. ``times``: rank → (steps, 2), begin and end of every
    step in ns; a rank without times did nothing."""
    convs = set(graph.convs)  # programs have linear layers as convolutions, too
    shares = workload(programs).shares
    found = []
    for program in sorted(programs, key=lambda each: each.rank):
        computing = waiting = 0
        last: int | None = None
        spans = times[program.rank].tolist() if program.rank in times else [(0, 0)] * len(program.steps)
        for step, (begin, end) in zip(program.steps, spans, strict=True):
            if isinstance(step, Recv) and last is not None:
                waiting += max(0, begin - last)
            if not isinstance(step, Send | Recv | Gather):
                computing += end - begin
            last = end
        parts = {step.layer for step in program.steps if isinstance(step, Conv)}
        sent = workload([program]).sent_bytes
        seconds = computing * 1e-9, waiting * 1e-9
        count = sum(graph.layers[layer] in convs for layer in parts)
        found.append(RankWork(program.rank, count, shares[program.rank], *seconds, sent, read_bytes(program)))
    return tuple(found)


def card_bytes(programs: Sequence[Program]) -> tuple[tuple[float, float], ...]:
    """(sent, received) through each rank's network card in one inference, for ranks 0 to the last; an estimate where the
    wire compresses."""
    ranks = 1 + max(program.rank for program in programs)
    sent, received = [0.0] * ranks, [0.0] * ranks
    for program in programs:
        for step in program.steps:
            if isinstance(step, Send):
                n_bytes = step.elements * program.batch * step.element_bytes
                sent[program.rank] += n_bytes
                received[step.to] += n_bytes
    return tuple(zip(sent, received, strict=True))


def workload(programs: Sequence[Program]) -> Workload:
    macs = {program.rank: sum(step.spec.macs for step in program.steps if isinstance(step, Conv)) for program in programs}
    sent = sum(
        step.elements * program.batch * step.element_bytes
        for program in programs
        for step in program.steps
        if isinstance(step, Send)
    )
    return Workload(macs, sent)
