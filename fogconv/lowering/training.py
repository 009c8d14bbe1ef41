"""Training programs: one conv's forward or backward pass, cut over the ranks of a session, as steps on plain arrays.

    forward    x shard →            conv        → y shard      → sum over input groups, concatenate over output groups
    backward   grad_y shard →       grad_input  → grad_x shard → sum over output groups, concatenate over input groups
                                    grad_weight → grad_w shard → concatenate

Workers keep their weights until new ones arrive, and the input shard of the last forward pass for its backward pass. The
master's inputs are, per shard, x, grad_y and the weight, as far as they are used; then the places of the results' parts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fogconv.ir.geometry import ConvSpec, Region
from fogconv.ir.layout import MASTER
from fogconv.ir.program import Program
from fogconv.ir.shard import Shard
from fogconv.ir.steps import (
    AnyStep,
    ArrayFree,
    ArrayInput,
    ArrayOutput,
    ArrayRecv,
    ArraySend,
    ConvForward,
    ConvGradInput,
    ConvGradWeight,
)


@dataclass(frozen=True)
class Pass:
    """The content of one run: whether to ``ship`` weights, send the input ``x`` or use the kept one, keep it, and which
    gradients."""

    backward: bool
    ship: bool
    send_x: bool = True
    keep: bool = False
    grad_x: bool = False
    grad_w: bool = False

    def brings_x(self, shard: Shard) -> bool:
        """Whether x is sent. The master's own input is in its memory anyway."""
        return self.send_x or (shard.rank == MASTER and self.grad_w)

    def brings_weight(self, shard: Shard) -> bool:
        return self.ship or (shard.rank == MASTER and (self.grad_x or not self.backward))

    @property
    def x(self) -> str:
        """An inference between a forward and its backward pass does not change the kept input."""
        return "x" if self.keep or (self.backward and not self.send_x) else "passing"


def pass_programs(spec: ConvSpec, shards: Sequence[Shard], run: Pass, *, ranks: int, name: str) -> list[Program]:
    """A program for the master and for every rank with a shard. Those of one ``name`` share their arrays."""
    tags = itertools.count(1)
    steps: dict[int, list[AnyStep]] = {MASTER: []}
    master = steps[MASTER]
    own: list[AnyStep] = []
    returns: tuple[list[AnyStep], list[AnyStep]] = ([], [])  # the first result of all ranks, then the second
    places: tuple[list[str], list[str]] = ([], [])
    begun: list[tuple[Any, ...]] = [
        (result, *region_of(result, shard))
        for shard in shards
        if shard.rank == MASTER
        for _, result in _work(run, shard, "")
    ]
    index = 0
    for number, shard in enumerate(shards):
        remote = shard.rank != MASTER
        mine = steps.setdefault(shard.rank, [])
        for what, shape in _needs(run, shard):
            master.append(ArrayInput(0, index, f"{what}{number}"))
            index += 1
            if remote:
                tag = next(tags)
                master.append(ArraySend(0, f"{what}{number}", shard.rank, tag))
                mine.append(ArrayRecv(0, what if what != "x" else run.x, shape, MASTER, tag))
        for kind, (step, result) in enumerate(_work(run, shard, "" if remote else str(number))):
            (mine if remote else own).append(step)
            places[kind].append(f"{result}{number}")
            if remote:
                tag = next(tags)
                mine.append(ArraySend(0, result, MASTER, tag))
                # Parts of one place are summed, the others are adjacent; the master's are written first.
                where = (result, *region_of(result, shard))
                into: Literal["place", "sum"] = "sum" if where in begun else "place"
                begun.append(where)
                returns[kind].append(ArrayRecv(0, f"{result}{number}", _shape(result, shard), shard.rank, tag, into))
            returns[kind].append(ArrayOutput(0, f"{result}{number}", kind * len(shards) + number))
        if remote:
            mine.append(ArrayFree(0, ("grad",) if run.keep else ("grad", run.x)))
    master += [ArrayInput(0, index + number, place) for number, place in enumerate([*places[0], *places[1]])]
    steps[MASTER] = [*master, *own, *returns[0], *returns[1]]
    return [Program(rank, ranks, spec.batch, (name,), (), tuple(todo), {}, name) for rank, todo in steps.items()]


def region_of(result: str, shard: Shard) -> tuple[slice, ...]:
    """The part of y, gx or gw that a shard computes."""
    if result == "gw":
        return (shard.filters.slice(), shard.depth.slice())
    return index_of(shard.output if result == "y" else shard.input)


def index_of(region: Region) -> tuple[slice, ...]:
    """The part of an array (N, C, H, W)."""
    return (slice(None), region.channels.slice(), region.rows.slice(), region.columns.slice())


def _needs(run: Pass, shard: Shard) -> list[tuple[str, tuple[int, ...]]]:
    needs = []
    if run.brings_x(shard):
        needs.append(("x", shard.spec.input_shape))
    if run.backward:
        needs.append(("grad", shard.spec.output_shape))
    if run.brings_weight(shard):
        needs.append(("w", shard.spec.weight_shape))
    return [(name, tuple(shape)) for name, shape in needs]


def _work(run: Pass, shard: Shard, suffix: str) -> list[tuple[AnyStep, str]]:
    """Each step with its result; the names of the master's arrays end in the shard's number."""
    x = "x" if suffix else run.x
    if not run.backward:
        return [(ConvForward(0, shard.spec, x + suffix, "w" + suffix, "y" + suffix), "y")]
    work: list[tuple[AnyStep, str]] = []
    if run.grad_x:
        work.append((ConvGradInput(0, shard.spec, "grad" + suffix, "w" + suffix, "gx" + suffix), "gx"))
    if run.grad_w:
        work.append((ConvGradWeight(0, shard.spec, x + suffix, "grad" + suffix, "gw" + suffix), "gw"))
    return work


def _shape(result: str, shard: Shard) -> tuple[int, ...]:
    shapes = {"y": shard.spec.output_shape, "gx": shard.spec.input_shape, "gw": shard.spec.weight_shape}
    return tuple(shapes[result])
