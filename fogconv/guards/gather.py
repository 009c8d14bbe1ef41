"""The programs of a guarded layer: pieces that are checked, coded, or not waited for, and their replacements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from fogconv.guards.checksums import dense, projected, signs, summed
from fogconv.ir import steps as step
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import Region, Span
from fogconv.ir.graph import LayerGraph
from fogconv.ir.guard import Guard
from fogconv.ir.layers import Conv, Layer
from fogconv.ir.layout import MASTER
from fogconv.ir.plan import Plan
from fogconv.ir.shard import Work


class Place(Protocol):
    """The place of a region of a tensor: a buffer, and the region in its coordinates."""

    @property
    def buffer(self) -> int: ...

    @property
    def place(self) -> Region: ...


class Builder(Protocol):
    """The part of lowering that is used here: all ranks' programs while they are built. ``index`` is the current
    layer."""

    index: int
    graph: LayerGraph
    plan: Plan
    steps: list[list[step.AnyStep]]

    @property
    def weights(self) -> Mapping[str, Array]:
        """By content hash."""

    def next_tag(self) -> int:
        """A tag that no other message of the run has."""

    def ensure(self, rank: int, tensor: int, region: Region) -> Place:
        """The region in one buffer of this rank, which has it."""

    def summand_buffer(self, rank: int, layer: Layer, region: Region) -> int:
        """A new buffer for a summand of a layer's result."""

    def wire_of(self, rank: int, buffer: int) -> step.Wire:
        """How what a buffer holds is sent."""

    def weight(self, rank: int, key: str, cut: tuple[slice, ...]) -> str:
        """The content hash of a part of a weight; records that this rank needs it."""

    def derived_weight(self, rank: int, make: Callable[[], Array]) -> str:
        """The content hash of an array that is not part of the graph's weights."""


def gather_pieces(builder: Builder, layer: Conv, guard: Guard, raw: Sequence[tuple[Work, int]]) -> dict[Region, int]:
    """Send a layer's raw pieces to the master by a Gather. Returns region → the master's buffer that then holds it.
    ``raw`` are all works of the layer, each with the buffer that holds the result on its rank. The master's own pieces
    need no guard.
    """
    steps = builder.steps[MASTER]
    away = [(work, buffer) for work, buffer in raw if work.rank != MASTER]
    spares = [_spare(builder, layer, work) for work, _ in away]
    checks: list[step.Check | None] = [None] * len(away)
    if guard.verify:
        checks = [
            _check(builder, layer, work, spare, seed)
            for seed, ((work, _), spare) in enumerate(zip(away, spares, strict=True))
        ]
    pieces = tuple(
        step.Piece(_bring(builder, work.rank, buffer, work.output, spare.target), spare, check)
        for (work, buffer), spare, check in zip(away, spares, checks, strict=True)
    )
    code = None if guard.code is None else _code(builder, layer, guard.code, [work for work, _ in away])
    steps.append(step.Gather(builder.index, pieces, code, guard.patience_s))
    here = [(work.output, buffer) for work, buffer in raw if work.rank == MASTER]
    here += [(spare.target_region, spare.target) for spare in spares]
    found: dict[Region, int] = {}
    for region, buffer in here:
        first = found.setdefault(region, buffer)
        if first != buffer:  # summands of one region
            steps.append(step.Copy(builder.index, buffer, region, first, accumulate=True))
    return found


def _bring(builder: Builder, rank: int, source: int, region: Region, target: int) -> step.Recv:
    """Send a region to the master. The Gather does the Recv."""
    tag, wire = builder.next_tag(), builder.wire_of(rank, source)
    builder.steps[rank].append(step.Send(builder.index, source, region, MASTER, tag, wire))
    return step.Recv(builder.index, target, region, rank, tag, wire=wire)


def _spare(builder: Builder, layer: Conv, work: Work) -> step.Conv:
    """A worker's conv, on the master: not a step of the program, but run by the Gather where needed."""
    shard = layer.shard(work)
    held = builder.ensure(MASTER, layer.source, shard.input)
    buffer = builder.summand_buffer(MASTER, layer, work.output)
    weight = builder.weight(MASTER, layer.weight, (shard.filters.slice(), shard.depth.slice()))
    bias = None
    if layer.bias is not None and shard.bears_bias:
        bias = builder.weight(MASTER, layer.bias, (shard.filters.slice(),))
    return step.Conv(builder.index, shard.spec, weight, bias, None, held.buffer, held.place, buffer, work.output)


def _check(builder: Builder, layer: Conv, work: Work, spare: step.Conv, seed: int) -> step.Check:
    """The conv with summed filters, written first, so that it runs while the workers compute.

    A grouped shard's channels read different inputs: its sums are taken over the spare's own filters, made dense.
    """
    shard = layer.shard(work)
    rows = signs(len(shard.filters), seed)
    groups, weights, bias = shard.spec.groups, builder.weights, None

    def plain(name: str) -> Array:
        return dense(weights[name], groups) if groups > 1 and name == spare.weight else weights[name]

    weight = builder.derived_weight(MASTER, lambda: projected(rows, plain(spare.weight)))
    if (spared := spare.bias) is not None:
        bias = builder.derived_weight(MASTER, lambda: projected(rows, plain(spared)))
    spec = replace(shard.spec, out_channels=len(rows), groups=1)
    region = spare.target_region.with_channels(Span(0, len(rows)))
    buffer = builder.summand_buffer(MASTER, layer, region)
    builder.steps[MASTER].append(
        step.Conv(builder.index, spec, weight, bias, None, spare.source, spare.source_region, buffer, region)
    )
    return step.Check(buffer, region, builder.derived_weight(MASTER, lambda: rows))


def _code(builder: Builder, layer: Conv, rank: int, works: Sequence[Work]) -> step.Recv:
    """The conv of one more rank with the sum of the pieces' filters."""
    shards = [layer.shard(work) for work in works]

    def sums(key: str) -> str:
        whole = builder.graph.weights[key]
        return builder.derived_weight(rank, lambda: summed([whole[shard.filters.slice()] for shard in shards]))

    weight = sums(layer.weight)
    bias = None if layer.bias is None else sums(layer.bias)
    most = max(len(shard.filters) for shard in shards)
    spec = replace(shards[0].spec, out_channels=most)
    region = works[0].output.with_channels(Span(0, most))
    held = builder.ensure(rank, layer.source, shards[0].input)
    out = builder.summand_buffer(rank, layer, region)
    builder.steps[rank].append(step.Conv(builder.index, spec, weight, bias, None, held.buffer, held.place, out, region))
    return _bring(builder, rank, out, region, builder.summand_buffer(MASTER, layer, region))
