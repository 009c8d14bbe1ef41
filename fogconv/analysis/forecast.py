"""Forecast: the predicted cost of a plan: seconds per layer, bytes per network card, memory per rank.

Bytes and memory are counted from the programs that would run, so they are right for every scheme.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fogconv.analysis.workload import card_bytes
from fogconv.hardware.tiers import shown_in
from fogconv.hardware.topology import Device, Topology
from fogconv.ir.graph import Conv, Hosted, LayerGraph
from fogconv.ir.memory.sharing import memory_bytes
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
class Forecast:
    plan: Plan
    layers: tuple[LayerForecast, ...]
    ranks: tuple[RankForecast, ...]
    hosted: tuple[Hosted, ...] = ()
    """What stays on the master because workers can't do it,"""
    on_master_share: float = 0.0
    """and its part of all multiply-adds (0 to 1)."""

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
    programs = lower(graph, plan).programs
    cards = card_bytes(programs)
    ranks = tuple(_rank(program, topology.devices[program.rank], cards[program.rank]) for program in programs)
    return Forecast(plan, _layers(graph, plan, programs, allowed), ranks, graph.hosted, graph.on_master_share)


def _rank(program: Program, device: Device, card: tuple[float, float]) -> RankForecast:
    swapped = frozenset(program.swapped)
    weights = sum(program.weight_bytes(key) for key in program.weights if key not in swapped)
    return RankForecast(
        program.rank,
        device.name,
        round(card[0]),
        round(card[1]),
        weights,
        sum(memory_bytes(program).values()),
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
