"""Plan: where each layer of a graph is computed, and where its result is sent.

Data only: the planner makes it, `fogconv.lowering.lower` turns it into programs.

    Placement  all the work (`fogconv.ir.shard.Work`) of one layer, with the layout that its output is brought into
    Plan       one placement per layer of the graph, in the graph's order
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from fogconv.errors import InputError
from fogconv.ir.geometry import Region, Span
from fogconv.ir.graph import LayerGraph
from fogconv.ir.guard import Guard
from fogconv.ir.layers import Host, Layer
from fogconv.ir.layout import Layout
from fogconv.ir.shard import Work
from fogconv.ir.stages import one_by_one, stages
from fogconv.ir.steps import Pixels, Wire
from fogconv.storage.trusted import read_plain

PLAN_VERSION = 1


@dataclass(frozen=True, slots=True)
class Placement:
    """``target`` is the layout of the output before the next layer (a partial one is summed there); None leaves it where
    it is computed. ``via`` are layouts that inputs pass through first (scatter before exchange). ``split`` names the cut
    for reports ("input:4", "output:4", "grid:2x2", "groups:4", "rows:5", "tiles:2x3", "rank:2"; None for the
    master alone). ``predicted`` and
    ``decision`` are for reports.
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
class Swap:
    """Of a rank's part of a layer, the weights that lie on its disk: those of these output channels, each span a slice that
    is read and computed on its own (`fogconv.ir.memory.swapping`)."""

    layer: int
    rank: int
    channels: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """``predicted_s`` is in seconds per inference: the sum of all placements' ``total_s``, and ``ends_s`` for starting it on
    all ranks and bringing the output to the master. ``predicted_j``: the joules of all devices together, where their power
    is known. ``pixels``: how the picture is normalised, where it is sent as bytes. ``card_bytes[rank]`` is (sent,
    received).

    For streams: ``beside`` are plans for the same graph on other ranks; each frame goes to one that is free. ``in_flight``
    is the number of frames at once on each of them that there is memory for, ``copies`` of how many a worker has the maps
    (the others wait there), and ``frames_per_s`` the predicted rate."""

    graph: str
    ranks: int
    scheme: str
    placements: tuple[Placement, ...]
    wire: Wire = "fp32"
    predicted_s: float | None = None
    card_bytes: tuple[tuple[float, float], ...] = ()
    ends_s: float = 0.0
    version: int = PLAN_VERSION
    swaps: tuple[Swap, ...] = ()
    predicted_j: float | None = None
    pixels: Pixels | None = None
    beside: tuple[Plan, ...] = ()
    in_flight: int = 1
    copies: int = 1
    frames_per_s: float | None = None

    @property
    def lanes(self) -> tuple[Plan, ...]:
        """All plans that take frames of a stream, this one first."""
        return (self, *self.beside)

    @property
    def layer_by_layer(self) -> bool:
        """Whether a layer ends before the next one begins, as in the paper's star."""
        return any(placement.mode == "star" for placement in self.placements)

    def stages(self, graph: LayerGraph) -> tuple[tuple[int, ...], ...]:
        """The order in which layers are computed: the star's is the graph's."""
        return one_by_one(graph) if self.layer_by_layer else stages(graph)

    def same_work(self, other: Plan) -> bool:
        """Whether both compute alike, whatever they are predicted to take."""

        def work(plan: Plan) -> Plan:
            bare = tuple(replace(placement, predicted={}, decision={}) for placement in plan.placements)
            beside = tuple(work(each) for each in plan.beside)
            return replace(plan, placements=bare, predicted_s=None, ends_s=0.0, frames_per_s=None, beside=beside)

        return work(self) == work(other)

    @property
    def active_ranks(self) -> frozenset[int]:
        coders = {p.guard.code for p in self.placements if p.guard is not None and p.guard.code is not None}
        workers = frozenset(work.rank for placement in self.placements for work in placement.work) | coders | {0}
        return workers.union(*(plan.active_ranks for plan in self.beside))

    def among(self, ranks: Sequence[int], of: int) -> Plan:
        """The same plan in a cluster of ``of`` ranks: ``ranks[i]`` does the work of rank i, the others none. Only for
        plans of the layout search; the plan of a guarded star is made for its own cluster.
        """
        beside = tuple(plan.among(ranks, of) for plan in self.beside)

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
        swaps = tuple(replace(swap, rank=ranks[swap.rank]) for swap in self.swaps)
        return replace(self, ranks=of, placements=placements, card_bytes=tuple(cards), swaps=swaps, beside=beside)


def save_plan(plan: Plan, path: str | Path) -> None:
    Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(plan), indent=1))


def load_plan(path: str | Path) -> Plan:
    """Read a plan's file. Raises InputError for a file that is not a plan of this version."""
    try:
        plan = msgspec.json.decode(read_plain(path), type=Plan)
    except OSError as error:
        raise InputError(f"can't read the plan {path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not a plan: {error}; make one with `fogconv plan MODEL --out FILE`") from error
    if plan.version != PLAN_VERSION:
        raise InputError(f"{path} is a plan of version {plan.version}; this fogconv reads {PLAN_VERSION}: plan again")
    return plan


def at_home(graph: LayerGraph, layer: Layer) -> Placement:
    """A placement of the layer on the master alone."""
    if layer.relabels:
        return Placement("relabel", ())
    if isinstance(layer, Host):
        written = [graph.tensors[tensor].region for tensor in layer.writes]
        return Placement("host", (Work(0, written[0]),) if written else (Work(0, graph.picture.region),))
    return Placement("local", (Work(0, graph.tensors[layer.target].region),))
