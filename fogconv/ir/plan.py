"""Plan: where each layer of a graph is computed, and where its result goes.

Data only: the planner makes it, `fogconv.lowering.lower` turns it into programs.

    Work       a rank's part of one layer: the output region, and the input channels or rows that a partial result sums
    Placement  all the work of one layer, with the layout that its output is brought into
    Plan       one placement per layer of the graph, in the graph's order
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from fogconv.errors import InputError, PlannerError
from fogconv.files import read_plain
from fogconv.ir.geometry import Region, Span
from fogconv.ir.graph import Add, Affine, Concat, Conv, Gate, GlobalPool, Host, Layer, LayerGraph, Pool, Shuffle, Slice
from fogconv.ir.guard import Guard
from fogconv.ir.layout import Layout
from fogconv.ir.program import Wire
from fogconv.ir.shard import Shard, conv_shard, pool_input
from fogconv.ir.stages import one_by_one, stages

PLAN_VERSION = 1


@dataclass(frozen=True, slots=True)
class Work:
    """``depth``: the input channels of a conv that is split by them. ``rows``: the input rows of a global pool over rows.

    ``raw``: the conv's residual and activation are left to where the result goes (they would have to travel first).
    """

    rank: int
    output: Region
    depth: Span | None = None
    rows: Span | None = None
    raw: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """``target`` is where the output has to be before the next layer (a partial one is summed there); None leaves it
    where it is made. ``via`` are layouts that inputs pass through first (scatter before exchange). ``split`` names the cut
    for people ("input:4", "output:4", "grid:2x2", "groups:4", "rows:5"; None for one rank). ``predicted`` and ``decision``
    are for reports.
    """

    mode: str
    work: tuple[Work, ...]
    target: Layout | None = None
    via: tuple[tuple[int, Layout], ...] = ()
    split: str | None = None
    predicted: Mapping[str, float] = field(default_factory=dict)
    decision: Mapping[str, Any] = field(default_factory=dict)
    guard: Guard | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """``predicted_s`` is in seconds per inference; ``card_bytes[rank]`` is (sent, received)."""

    graph: str
    ranks: int
    scheme: str
    placements: tuple[Placement, ...]
    wire: Wire = "fp32"
    predicted_s: float | None = None
    card_bytes: tuple[tuple[float, float], ...] = ()
    version: int = PLAN_VERSION

    def stages(self, graph: LayerGraph) -> tuple[tuple[int, ...], ...]:
        """The order in which layers are computed: the star's is the graph's."""
        return one_by_one(graph) if any(placement.mode == "star" for placement in self.placements) else stages(graph)

    @property
    def active_ranks(self) -> frozenset[int]:
        coders = {p.guard.code for p in self.placements if p.guard is not None and p.guard.code is not None}
        return frozenset(work.rank for placement in self.placements for work in placement.work) | coders | {0}

    def among(self, ranks: Sequence[int], of: int) -> Plan:
        """The same plan in a cluster of ``of`` ranks, where ``ranks[i]`` does what rank i did, and the others nothing.

        Only for plans of the layout search: those of a guarded star are made where they run.
        """

        def spread(layout: Layout) -> Layout:
            regions: list[tuple[Region, ...]] = [()] * of
            for rank, boxes in zip(ranks, layout.regions, strict=True):
                regions[rank] = boxes
            return replace(layout, regions=tuple(regions))

        placements = tuple(
            replace(
                placement,
                work=tuple(replace(work, rank=ranks[work.rank]) for work in placement.work),
                target=None if placement.target is None else spread(placement.target),
                via=tuple((tensor, spread(layout)) for tensor, layout in placement.via),
            )
            for placement in self.placements
        )
        cards = [(0.0, 0.0)] * of
        for rank, card in zip(ranks, self.card_bytes, strict=False):
            cards[rank] = card
        return replace(self, ranks=of, placements=placements, card_bytes=tuple(cards))


def save_plan(plan: Plan, path: str | Path) -> None:
    Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(plan), indent=1))


def load_plan(path: str | Path) -> Plan:
    """Raises InputError for a file that is no plan of this version."""
    try:
        plan = msgspec.json.decode(read_plain(path), type=Plan)
    except OSError as error:
        raise InputError(f"can't read the plan {path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not a plan: {error}; make one with `fogconv plan MODEL --out FILE`") from error
    if plan.version != PLAN_VERSION:
        raise InputError(f"{path} is a plan of version {plan.version}; this fogconv reads {PLAN_VERSION}: plan again")
    return plan


def check_plan(plan: Plan, graph: LayerGraph) -> None:
    """Raises PlannerError when the plan was made for another graph."""
    if plan.graph != graph.name or len(plan.placements) != len(graph.layers):
        raise PlannerError(
            f"the plan is for {plan.graph} with {len(plan.placements)} layers, but the model is {graph.name} with "
            f"{len(graph.layers)}; plan again with `fogconv plan`"
        )


def shard_of(layer: Conv, work: Work) -> Shard:
    return conv_shard(work.rank, layer.spec, work.output, work.depth)


def needs(graph: LayerGraph, layer: Layer, work: Work) -> tuple[tuple[int, Region], ...]:
    """(tensor, region) for everything that this work reads, without the residual of a conv whose sum is still partial."""
    match layer:
        case Conv():
            shard = shard_of(layer, work)
            read: tuple[tuple[int, Region], ...] = ((layer.source, shard.input),)
            if layer.residual is not None and not is_partial(layer, work):
                read += ((layer.residual, work.output),)
            return read
        case Pool():
            return ((layer.source, pool_input(layer.spec, work.output)),)
        case GlobalPool():
            whole = graph.tensors[layer.source].region.with_channels(work.output.channels)
            return ((layer.source, whole if work.rows is None else whole.with_rows(work.rows)),)
        case Add():
            return tuple((source, work.output) for source in layer.sources)
        case Affine():
            return ((layer.source, work.output),)
        case Gate():
            gate = graph.tensors[layer.gate].region.with_channels(work.output.channels)
            return ((layer.source, work.output), (layer.gate, gate))
        case Shuffle():
            every = graph.tensors[layer.source].region.channels
            return ((layer.source, work.output.with_channels(every)),)
        case Host():
            return tuple((source, graph.tensors[source].region) for source in layer.reads)
        case Concat() | Slice():
            return ()


def is_partial(layer: Layer, work: Work) -> bool:
    """Whether this work's result is a summand only, or unfinished: residual and activation come after the target's sum."""
    if isinstance(layer, Conv):
        return work.raw or shard_of(layer, work).partial
    return work.rows is not None


def at_home(graph: LayerGraph, layer: Layer) -> Placement:
    """The layer on the master alone."""
    if isinstance(layer, Concat | Slice):
        return Placement("relabel", ())
    if isinstance(layer, Host):
        written = [graph.tensors[tensor].region for tensor in layer.writes]
        return Placement("host", (Work(0, written[0]),) if written else (Work(0, graph.tensors[graph.input].region),))
    return Placement("local", (Work(0, graph.tensors[layer.target].region),))
