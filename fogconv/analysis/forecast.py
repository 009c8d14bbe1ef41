"""Forecast: the predicted cost of a plan: seconds per layer, bytes per network card, memory per rank.

Bytes and memory are counted from the programs that would run, so they are right for every scheme.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fogconv.analysis.workload import card_bytes
from fogconv.hardware.tiers import shown_in
from fogconv.hardware.topology import Device, Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv, Hosted
from fogconv.ir.memory.bands import banded
from fogconv.ir.memory.swapping import read_bytes, step_read_bytes
from fogconv.ir.plan import Plan
from fogconv.ir.program import Program
from fogconv.lowering.lower import lower
from fogconv.planning.limits.allowed import Allowed

MOVES = ("part_s", "tx_s")
"""Terms of bringing a layer's inputs to where they are needed,"""
SUMS = ("rx_s", "join_s")
"""and of bringing its results together."""


@dataclass(frozen=True, slots=True)
class RankForecast:
    """Bytes per inference through this rank's card, its memory (weights, and the maps of one inference), and what it reads
    per inference of the weights that it swaps: these are on its disk, and not in memory."""

    rank: int
    device: str
    sent_bytes: int
    received_bytes: int
    weight_bytes: int
    map_bytes: int
    read_bytes: int = 0
    tier: str = ""

    @property
    def name(self) -> str:
        """The rank, its device and its tier."""
        return f"{self.rank}: {shown_in(self.device, self.tier)}"


@dataclass(frozen=True, slots=True)
class LayerForecast:
    """``split`` is None where one rank computes the layer; ``predicted`` are the scheme's terms, in seconds."""

    name: str
    kind: str
    shape: str
    mode: str
    split: str | None
    ranks: tuple[int, ...]
    predicted: dict[str, float]
    read_bytes: int = 0
    """What all ranks read of its weights from their disks."""
    pinned: bool = False
    """Whether no other rank was allowed to compute it."""

    @property
    def move_s(self) -> float:
        """Seconds to send the layer's inputs to where they are needed."""
        return sum(self.predicted.get(term, 0.0) for term in MOVES)

    @property
    def sum_s(self) -> float:
        """Seconds to send and add partial results."""
        return sum(self.predicted.get(term, 0.0) for term in SUMS)


@dataclass(frozen=True, slots=True)
class StageForecast:
    """Consecutive layers that the same ranks compute."""

    first: str
    last: str
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LaneForecast:
    """One of the plans that take frames of a stream: a frame's seconds where it is alone, and the most in flight."""

    ranks: tuple[int, ...]
    in_flight: int
    predicted_s: float | None
    stages: tuple[StageForecast, ...]

    @property
    def text(self) -> str:
        """ "conv1–layer2.0 on rank 0, layer2.1–fc on rank 1"."""
        if len(self.stages) == 1:
            return f"whole frames on {_named(self.ranks)}"
        return ", ".join(f"{stage.first}–{stage.last} on {_named(stage.ranks)}" for stage in self.stages)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def _named(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


@dataclass(frozen=True, slots=True)
class Forecast:
    plan: Plan
    layers: tuple[LayerForecast, ...]
    ranks: tuple[RankForecast, ...]
    hosted: tuple[Hosted, ...] = ()
    """What stays on the master because workers can't do it,"""
    on_master_share: float = 0.0
    """and its part of all multiply-adds (0 to 1)."""
    lanes: tuple[LaneForecast, ...] = ()

    @property
    def total(self) -> LayerForecast:
        """All layers, and the start and the end of an inference, as one: ``predicted["total_s"]`` is the plan's."""
        terms = {term: sum(layer.predicted.get(term, 0.0) for layer in self.layers) for term in (*MOVES, "edge_s", *SUMS)}
        total_s = sum(layer.predicted.get("total_s", 0.0) for layer in self.layers) + self.plan.ends_s
        return LayerForecast("all", "", "", "", None, (), terms | {"total_s": total_s})

    @property
    def busiest_card_bytes(self) -> int:
        """The most that one card takes in one direction."""
        return max(max(rank.sent_bytes, rank.received_bytes) for rank in self.ranks)

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.plan.graph,
            "scheme": self.plan.scheme,
            "wire": self.plan.wire,
            "ranks": self.plan.ranks,
            "predicted_s": self.plan.predicted_s,
            "predicted_j": self.plan.predicted_j,
            "predicted_frames_per_s": self.plan.frames_per_s,
            "lanes": [each.as_json() for each in self.lanes],
            "ends_s": self.plan.ends_s,
            "bytes_busiest_card": self.busiest_card_bytes,
            "on_master_share": self.on_master_share,
            "on_master": [asdict(each) for each in self.hosted],
            "cards": [
                {
                    "rank": rank.rank,
                    "device": rank.device,
                    "tier": rank.tier or None,
                    "sent_bytes": rank.sent_bytes,
                    "received_bytes": rank.received_bytes,
                    "weight_bytes": rank.weight_bytes,
                    "map_bytes": rank.map_bytes,
                    "read_bytes": rank.read_bytes,
                }
                for rank in self.ranks
            ],
            "layers": [
                {
                    "name": layer.name,
                    "kind": layer.kind,
                    "shape": layer.shape,
                    "mode": layer.mode,
                    "split": layer.split,
                    "ranks": list(layer.ranks),
                    "pinned": layer.pinned,
                    "predicted": layer.predicted,
                    "read_bytes": layer.read_bytes,
                }
                for layer in self.layers
            ],
        }


def forecast(graph: LayerGraph, plan: Plan, topology: Topology, allowed: Allowed = Allowed()) -> Forecast:
    """The forecast of a plan; ``allowed`` is what it was made within. Raises PlannerError when the plan is not for this
    graph."""
    programs, *beside = (lower(graph, lane).programs for lane in plan.lanes)
    ranks = _ranks(programs, topology)
    for others in beside:
        ranks = tuple(_together(one, other) for one, other in zip(ranks, _ranks(others, topology), strict=True))
    layers = _layers(graph, plan, programs, allowed)
    return Forecast(plan, layers, ranks, graph.hosted, graph.on_master_share, lanes(graph, plan))


def lanes(graph: LayerGraph, plan: Plan) -> tuple[LaneForecast, ...]:
    """The plans of a stream, with their stages; none for a plan that is for one frame."""
    return () if plan.frames_per_s is None else tuple(_lane(graph, lane) for lane in plan.lanes)


def _lane(graph: LayerGraph, plan: Plan) -> LaneForecast:
    stages: list[StageForecast] = []
    for layer, placement in zip(graph.layers, plan.placements, strict=True):
        ranks = tuple(sorted({work.rank for work in placement.work}))
        if stages and ranks in ((), stages[-1].ranks):
            stages[-1] = StageForecast(stages[-1].first, layer.name, stages[-1].ranks)
        elif ranks:
            stages.append(StageForecast(layer.name, layer.name, ranks))
    everyone = sorted({rank for stage in stages for rank in stage.ranks})
    return LaneForecast(tuple(everyone), plan.in_flight, plan.predicted_s, tuple(stages))


def _ranks(programs: Sequence[Program], topology: Topology) -> tuple[RankForecast, ...]:
    cards = card_bytes(programs)
    return tuple(_rank(program, topology.devices[program.rank], cards[program.rank]) for program in programs)


def _together(one: RankForecast, other: RankForecast) -> RankForecast:
    """A rank that has a part in two plans of a stream: a frame on each."""
    names = ("sent_bytes", "received_bytes", "weight_bytes", "map_bytes", "read_bytes")
    return replace(one, **{name: getattr(one, name) + getattr(other, name) for name in names})


def _rank(program: Program, device: Device, card: tuple[float, float]) -> RankForecast:
    swapped = frozenset(program.swapped)
    weights = sum(program.weight_bytes(key) for key in program.weights if key not in swapped)
    return RankForecast(
        program.rank,
        device.name,
        round(card[0]),
        round(card[1]),
        weights,
        sum(banded(program, device.threads).sizes.values()),
        read_bytes(program),
        device.tier,
    )


def _layers(graph: LayerGraph, plan: Plan, programs: Sequence[Program], allowed: Allowed) -> tuple[LayerForecast, ...]:
    found, read = [], Counter[int]()
    for program in programs:
        for step in program.steps if program.swapped else ():
            read[step.layer] += step_read_bytes(program, step)
    for index, (layer, placement) in enumerate(zip(graph.layers, plan.placements, strict=True)):
        # A host layer's result may be no map.
        out = graph.tensors[(*layer.writes, *layer.reads)[0]] if layer.writes or layer.reads else graph.picture
        size = f"{out.height}×{out.width}"
        if isinstance(layer, Conv):
            spec = layer.spec
            shape = f"{spec.kernel[0]}×{spec.kernel[1]} {spec.in_channels}→{spec.out_channels} {size}"
        else:
            shape = f"{out.channels} {size}"
        ranks = tuple(sorted({work.rank for work in placement.work}))
        found.append(
            LayerForecast(
                layer.name,
                layer.kind,
                shape,
                placement.mode,
                placement.split,
                ranks,
                {term: float(seconds) for term, seconds in placement.predicted.items()},
                read[index],
                allowed.rank_of(layer) is not None,
            )
        )
    return tuple(found)
