"""Forecast: what a plan will take, before anything runs: seconds per layer, bytes per network card, memory per rank.

Bytes and memory are counted from the programs that would run, so they hold for every scheme alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fogconv.hardware.topology import Topology
from fogconv.ir.geometry import BYTES_PER_ELEMENT
from fogconv.ir.graph import Conv, LayerGraph
from fogconv.ir.memory.footprint import map_bytes
from fogconv.ir.plan import Plan
from fogconv.ir.program import Program, Recv, Send
from fogconv.lowering.lower import lower
from fogconv.planning.cost import WIRE_BYTES


@dataclass(frozen=True, slots=True)
class RankForecast:
    """Bytes per inference through this rank's card, and what it holds: its weights, and the maps of one inference."""

    rank: int
    device: str
    sent_bytes: int
    received_bytes: int
    weight_bytes: int
    map_bytes: int


@dataclass(frozen=True, slots=True)
class LayerForecast:
    """``split`` is None where one rank does the layer; ``predicted`` are the scheme's terms, in seconds."""

    name: str
    kind: str
    shape: str
    mode: str
    split: str | None
    ranks: tuple[int, ...]
    predicted: dict[str, float]


@dataclass(frozen=True, slots=True)
class Forecast:
    plan: Plan
    layers: tuple[LayerForecast, ...]
    ranks: tuple[RankForecast, ...]

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
            "bytes_busiest_card": self.busiest_card_bytes,
            "cards": [
                {
                    "rank": rank.rank,
                    "device": rank.device,
                    "sent_bytes": rank.sent_bytes,
                    "received_bytes": rank.received_bytes,
                    "weight_bytes": rank.weight_bytes,
                    "map_bytes": rank.map_bytes,
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
                    "predicted": layer.predicted,
                }
                for layer in self.layers
            ],
        }


def forecast(graph: LayerGraph, plan: Plan, topology: Topology) -> Forecast:
    """Raises PlannerError when the plan is not for this graph."""
    programs = lower(graph, plan).programs
    batch = graph.tensors[graph.input].batch
    ranks = tuple(_rank(program, topology.devices[program.rank].name, plan, batch) for program in programs)
    return Forecast(plan, _layers(graph, plan), ranks)


def _rank(program: Program, device: str, plan: Plan, batch: int) -> RankForecast:
    element_bytes = WIRE_BYTES[plan.wire] * batch
    sent = sum(step.elements for step in program.steps if isinstance(step, Send))
    received = sum(step.elements for step in program.steps if isinstance(step, Recv))
    weights = sum(math.prod(shape) for shape in program.weights.values())
    return RankForecast(
        program.rank,
        device,
        round(sent * element_bytes),
        round(received * element_bytes),
        weights * BYTES_PER_ELEMENT,
        map_bytes(program),
    )


def _layers(graph: LayerGraph, plan: Plan) -> tuple[LayerForecast, ...]:
    found = []
    for layer, placement in zip(graph.layers, plan.placements, strict=True):
        out = graph.tensors[layer.writes[0]]
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
            )
        )
    return tuple(found)
