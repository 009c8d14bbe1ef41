"""Guarded layers: the programs of a star's conv whose pieces are checked, coded, or not waited for (`fogconv.ir.guard`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fogconv.guards.checksums import projected, signs, summed
from fogconv.ir import program as step
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import Region, Span
from fogconv.ir.graph import Conv
from fogconv.ir.guard import Guard
from fogconv.ir.layout import MASTER
from fogconv.ir.shard import Work
from fogconv.lowering.buffers import Held
from fogconv.lowering.program_builder import ProgramBuilder


@dataclass
class Partial:
    """A summand of a layer's output: ``region`` lies in ``buffer`` of ``rank``."""

    rank: int
    buffer: int
    region: Region


class GuardedProgramBuilder(ProgramBuilder):
    def guarded(self, layer: Conv, guard: Guard, works: Sequence[Work], summands: list[Partial]) -> list[Partial]:
        """Bring the raw pieces to the master by a Gather; the summands as they then lie there, one per region."""
        here = [part for part in summands if part.rank == MASTER]
        away = [(work, part) for work, part in zip(works, summands, strict=True) if part.rank != MASTER]
        target = self.graph.tensors[layer.target].region
        spares = []
        for work, part in away:
            held = self.ensure(MASTER, layer.source, layer.shard(work).input)
            buffer = self.residency.new_buffer(MASTER, layer.target, part.region, margin=False)
            spares.append(self.raw_conv(MASTER, layer, work, held, buffer, part.region))
        checks: list[step.Check | None] = [None] * len(away)
        if guard.verify:
            checks = [
                self.check(layer, work, spare, seed)
                for seed, ((work, _), spare) in enumerate(zip(away, spares, strict=True))
            ]
        pieces = []
        for (_, part), spare, check in zip(away, spares, checks, strict=True):
            recv = self.bring(part, spare.target)
            pieces.append(step.Piece(recv, spare, check))
            here.append(Partial(MASTER, spare.target, part.region))
        code = None
        if guard.code is not None:
            code = self.coded(layer, guard.code, [work for work, _ in away], target)
        self.steps[MASTER].append(step.Gather(self.index, tuple(pieces), code, guard.patience_s))
        by_region: dict[Region, Partial] = {}
        for part in here:
            first = by_region.setdefault(part.region, part)
            if first is not part:
                self.steps[MASTER].append(step.Copy(self.index, part.buffer, part.region, first.buffer, accumulate=True))
        return list(by_region.values())

    def bring(self, part: Partial, buffer: int) -> step.Recv:
        tag = self.next_tag()
        self.steps[part.rank].append(step.Send(self.index, part.buffer, part.region, MASTER, tag, self.plan.wire))
        return step.Recv(self.index, buffer, part.region, part.rank, tag, wire=self.plan.wire)

    def raw_conv(self, rank: int, layer: Conv, work: Work, held: Held, buffer: int, region: Region) -> step.Conv:
        shard = layer.shard(work)
        weight = self.weight(rank, layer.weight, (shard.filters.slice(), shard.depth.slice()))
        bias = None
        if layer.bias is not None and shard.bears_bias:
            bias = self.weight(rank, layer.bias, (shard.filters.slice(),))
        return step.Conv(self.index, shard.spec, weight, bias, None, held.buffer, held.place, buffer, region)

    def check(self, layer: Conv, work: Work, spare: step.Conv, seed: int) -> step.Check:
        """The conv with summed filters, at once, so that it is done while the workers compute.

        A grouped shard's channels read different inputs: its sums are taken over the spare's own filters, made dense.
        """
        shard = layer.shard(work)
        rows = signs(len(shard.filters), seed)
        groups, weights, bias = shard.spec.groups, self.weights, None

        def plain(name: str) -> Array:
            return dense(weights[name], groups) if groups > 1 and name == spare.weight else weights[name]

        summed_weight = self.named_weight(MASTER, lambda: projected(rows, plain(spare.weight)))
        if (spared := spare.bias) is not None:
            bias = self.named_weight(MASTER, lambda: projected(rows, plain(spared)))
        spec = replace(shard.spec, out_channels=len(rows), groups=1)
        region = spare.target_region.with_channels(Span(0, len(rows)))
        buffer = self.residency.new_buffer(MASTER, layer.target, region, margin=False)
        self.steps[MASTER].append(
            step.Conv(self.index, spec, summed_weight, bias, None, spare.source, spare.source_region, buffer, region)
        )
        return step.Check(buffer, region, self.named_weight(MASTER, lambda: rows))

    def coded(self, layer: Conv, rank: int, works: Sequence[Work], target: Region) -> step.Recv:
        """One more rank's conv with the sum of the pieces' filters."""
        shards = [layer.shard(work) for work in works]

        def sums(key: str) -> str:
            whole = self.graph.weights[key]
            return self.named_weight(rank, lambda: summed([whole[shard.filters.slice()] for shard in shards]))

        weight = sums(layer.weight)
        bias = None if layer.bias is None else sums(layer.bias)
        most = max(len(shard.filters) for shard in shards)
        spec = replace(shards[0].spec, out_channels=most)
        region = target.with_channels(Span(0, most))
        held = self.ensure(rank, layer.source, shards[0].input)
        out = self.residency.new_buffer(rank, layer.target, region, margin=False)
        self.steps[rank].append(step.Conv(self.index, spec, weight, bias, None, held.buffer, held.place, out, region))
        buffer = self.residency.new_buffer(MASTER, layer.target, region, margin=False)
        return self.bring(Partial(rank, out, region), buffer)

    def named_weight(self, rank: int, make: Callable[[], Array]) -> str:
        """An array that is no part of the graph's weights, noted as needed by this rank."""
        name = self.weights.derive(make)
        self.named[rank][name] = self.weights.shape(name)
        return name


def dense(weight: NDArray[np.floating], groups: int) -> NDArray[np.floating]:
    """A grouped conv's weight (f, c/g, K_h, K_w) as that of a dense one, (f, c, K_h, K_w), zero outside its groups."""
    f, c = weight.shape[:2]
    whole = np.zeros((f, c * groups, *weight.shape[2:]), weight.dtype)
    per_group = f // groups
    for group in range(groups):
        rows = slice(group * per_group, (group + 1) * per_group)
        whole[rows, group * c : (group + 1) * c] = weight[rows]
    return whole
