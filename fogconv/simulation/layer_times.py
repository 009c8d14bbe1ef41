"""Layer times: the seconds of each layer, read from the times of an inference's steps, measured or simulated.

For the star the five terms of the paper, one after the other on the master's clock:

    part   cutting: the master's sends          tx    until the last worker has its shard
    edge   until the last shard is computed     rx    until the last partial OFM is here
    join   summing, concatenating, the epilogue

For other schemes the ranks work at the same time: edge_s, wait_s, tx_s and rx_s are the slowest rank's work, waiting,
sending and receiving. total_s is the time from the end of the layer that ended before it to its own end, so that all layers
together take as long as the inference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fogconv.ir.plan import Plan
from fogconv.ir.program import Program
from fogconv.ir.steps import AnyStep, Gather, Input, Output, Recv, Send

STAR_TERMS = ("part_s", "tx_s", "edge_s", "rx_s", "join_s", "total_s")
TERMS = ("edge_s", "wait_s", "tx_s", "rx_s", "total_s")

Times = Mapping[int, NDArray[np.int64]]
"""Rank → (steps, 2): begin and end of every step in ns."""


@dataclass(frozen=True, slots=True)
class Timed:
    """A step and its times in ns; ``before`` is the end of the rank's step before it."""

    rank: int
    step: AnyStep
    begin: int
    end: int
    before: int


def timed_steps(programs: Sequence[Program], times: Times) -> Iterator[Timed]:
    """All steps, rank by rank, in the order of the programs."""
    for program in programs:
        if program.rank not in times:
            continue
        before = None
        for step, (begin, end) in zip(program.steps, times[program.rank].tolist(), strict=True):
            yield Timed(program.rank, step, begin, end, begin if before is None else before)
            before = end


def by_layer(programs: Sequence[Program], times: Times) -> dict[int, list[Timed]]:
    """Layer → its steps; those that begin and end an inference belong to none."""
    found: dict[int, list[Timed]] = defaultdict(list)
    for timed in timed_steps(programs, times):
        if not isinstance(timed.step, Input | Output):
            found[timed.step.layer].append(timed)
    return found


def layer_times(plan: Plan, programs: Sequence[Program], times: Times) -> list[dict[str, float]]:
    """The terms of every layer of the plan, in seconds: STAR_TERMS for a star, TERMS for other schemes."""
    steps = by_layer(programs, times)
    layers = range(len(plan.placements))
    if plan.scheme == "star":
        return [_star(steps[index]) if plan.placements[index].mode == "star" else _alone(steps[index]) for index in layers]
    frontier = min((timed.begin for found in steps.values() for timed in found), default=0)
    ends = {index: max((timed.end for timed in steps[index]), default=frontier) for index in layers}
    totals = {}
    for index in sorted(layers, key=lambda index: ends[index]):
        totals[index] = max(0, ends[index] - frontier) / 1e9
        frontier = max(frontier, ends[index])
    return [_resident(steps[index]) | {"total_s": totals[index]} for index in layers]


def _seconds(timed: Sequence[Timed]) -> float:
    return sum(t.end - t.begin for t in timed) / 1e9


def _alone(steps: Sequence[Timed]) -> dict[str, float]:
    total = _seconds(steps)
    return {"part_s": 0.0, "tx_s": 0.0, "edge_s": total, "rx_s": 0.0, "join_s": 0.0, "total_s": total}


def _star(steps: Sequence[Timed]) -> dict[str, float]:
    sends = [t for t in steps if t.rank == 0 and isinstance(t.step, Send)]
    returns = [t for t in steps if t.rank == 0 and isinstance(t.step, Recv | Gather)]
    arrivals = [t for t in steps if t.rank != 0 and isinstance(t.step, Recv)]
    works = [
        t
        for t in steps
        if not isinstance(t.step, Send | Recv | Gather) and (t.rank != 0 or not returns or t.end <= returns[0].begin)
    ]
    if not (returns and works):
        return _alone(steps)
    # On the master's clock: workers may have started with the inputs they hold while the previous layer's result was
    # still being returned.
    begin, end = min(t.before for t in steps if t.rank == 0), max(t.end for t in steps if t.rank == 0)
    cut = begin + sum(t.end - t.begin for t in sends)
    # No messages: the workers hold the input already, from a layer that reads the same map.
    there = max([cut, *(t.end for t in arrivals)])
    done = max(there, max(t.end for t in works))
    back = min(end, max(done, max(t.begin for t in returns)))
    return {
        "part_s": (cut - begin) / 1e9,
        "tx_s": (there - cut) / 1e9,
        "edge_s": (done - there) / 1e9,
        "rx_s": (back - done) / 1e9,
        "join_s": (end - back) / 1e9,
        "total_s": (end - begin) / 1e9,
    }


def _resident(steps: Sequence[Timed]) -> dict[str, float]:
    ranks = {t.rank for t in steps}

    def slowest(kind: type | tuple[type, ...], *, other: bool = False) -> float:
        return max(
            (_seconds([t for t in steps if t.rank == rank and isinstance(t.step, kind) is not other]) for rank in ranks),
            default=0.0,
        )

    waits = [sum(t.begin - t.before for t in steps if t.rank == rank and isinstance(t.step, Recv)) / 1e9 for rank in ranks]
    return {
        "edge_s": slowest((Send, Recv), other=True),
        "wait_s": max(waits, default=0.0),
        "tx_s": slowest(Send),
        "rx_s": slowest(Recv),
    }
