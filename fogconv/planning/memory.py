"""Memory: whether every rank has room for its part of a plan, counted as the workers count it."""

from __future__ import annotations

from dataclasses import dataclass

from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.memory.footprint import PROCESS_BYTES, footprint, room
from fogconv.ir.plan import Plan
from fogconv.lowering.lower import outline


@dataclass(frozen=True, slots=True)
class Over:
    """A rank whose part exceeds its limit, and the sentence about it."""

    rank: int
    sentence: str


def needed_bytes(graph: LayerGraph, plan: Plan, topology: Topology) -> tuple[int, ...]:
    """What each rank's program takes: packed weights, maps, messages, scratch."""
    return tuple(
        footprint(program, threads=device.threads).total if program.steps else 0
        for program, device in zip(outline(graph, plan), topology.devices, strict=True)
    )


def over_memory(graph: LayerGraph, plan: Plan, topology: Topology) -> Over | None:
    """The rank whose part exceeds its limit by most, or None."""
    if all(device.memory_bytes is None for device in topology.devices):
        return None
    needs = needed_bytes(graph, plan, topology)
    excess = {rank: needs[rank] - room(limit) for rank in topology.ranks if (limit := topology.devices[rank].memory_bytes)}
    rank = max(excess, key=lambda each: excess[each])
    if excess[rank] <= 0:
        return None
    device = topology.devices[rank]
    limit = device.memory_bytes or 0
    return Over(
        rank,
        f"{graph.name} needs {needs[rank] / 1e6:.0f} MB of weights and maps on rank {rank} ({device.name}), whose limit is "
        f"{limit / 1e6:.0f} MB, of which {min(PROCESS_BYTES, limit) / 1e6:.0f} MB are for the process itself; use more "
        "ranks, another --scheme, or a greater --memory",
    )
