"""Memory: whether every rank has room for its part of a plan, counted as the workers count it, and what it swaps if not.

A rank that may swap keeps those weights on its disk, slice by slice, that cost least per byte saved: first the ones that are
computed as fast as from memory (fully connected layers), then those of which computing is not much slower (see
`fogconv.ir.memory.algorithm.compact`), and of equal ones the largest. It keeps as much in memory as it can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fogconv.hardware.topology import Device, Topology
from fogconv.ir.geometry import BYTES_PER_ELEMENT, ConvSpec, Span
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv
from fogconv.ir.layout import MASTER
from fogconv.ir.memory.algorithm import Vectors, cheapest, packed_bytes
from fogconv.ir.memory.footprint import PROCESS_BYTES, SHIPPED_BYTES, Footprint, footprint, room
from fogconv.ir.memory.swapping import slice_bytes, slice_channels, slowdown
from fogconv.ir.plan import Plan, Swap
from fogconv.ir.program import Program
from fogconv.ir.shard import Work
from fogconv.lowering.lower import outline


@dataclass(frozen=True, slots=True)
class Over:
    """A rank whose part exceeds its limit, and the sentence about it."""

    rank: int
    sentence: str


def needed_bytes(graph: LayerGraph, plan: Plan, topology: Topology) -> tuple[int, ...]:
    """What each rank's programs take: packed weights, and maps, messages and scratch for each frame in flight."""
    needed = [0] * len(topology)
    for lane in plan.lanes:
        for rank, program in enumerate(outline(graph, lane)):
            if program.steps:
                found = _footprint(program, topology.devices[rank])
                copies = lane.in_flight if rank == MASTER else min(lane.copies, lane.in_flight)
                needed[rank] += found.total + (copies - 1) * found.private + (lane.in_flight - copies) * found.mail
    return tuple(needed)


def over_memory(graph: LayerGraph, plan: Plan, topology: Topology) -> Over | None:
    """The rank whose part exceeds its limit by most, or None."""
    beyond = excess(graph, plan, topology)
    if not beyond:
        return None
    rank = max(beyond, key=lambda each: beyond[each])
    device = topology.devices[rank]
    limit = device.memory_bytes or 0
    needed = (beyond[rank] + room(limit)) / 1e6
    what = "maps and what can't be swapped" if plan.swaps else "weights and maps"
    advice = (
        "use more ranks, another --scheme, or a greater --memory"
        if plan.swaps
        else "use more ranks, another --scheme, a greater --memory, or --allow-swap, which leaves weights on the disk"
    )
    return Over(
        rank,
        f"{graph.name} needs {needed:.0f} MB of {what} on rank {rank} ({device.name}), whose limit is "
        f"{limit / 1e6:.0f} MB, of which {min(PROCESS_BYTES, limit) / 1e6:.0f} MB are for the process itself; {advice}",
    )


def with_swaps(graph: LayerGraph, plan: Plan, topology: Topology) -> Plan:
    """The plan, with weights on the disks of the ranks that have no room for them; its prediction stays as it was.

    Where even that is not enough, `over_memory` says so of the result. A plan that has swaps already is not changed.
    """
    rooms: dict[int, int] = {}
    swaps: dict[int, tuple[Swap, ...]] = {}
    found = plan
    while not plan.swaps and (beyond := excess(graph, found, topology)):
        before = found
        whole = outline(graph, plan)
        for rank, missing in beyond.items():
            device = topology.devices[rank]
            # The second time round: what was counted without lowering was too little.
            rooms[rank] = rooms[rank] - missing if rank in rooms else room(device.memory_bytes or 0)
            candidates = _candidates(graph, plan, topology, rank)
            swaps[rank] = _chosen(_footprint(whole[rank], device), candidates, rank, rooms[rank])
        found = replace(plan, swaps=tuple(swap for each in swaps.values() for swap in each))
        if found == before:
            break
    return found


def excess(graph: LayerGraph, plan: Plan, topology: Topology) -> dict[int, int]:
    """By how many bytes ranks exceed their limits, those that do."""
    if all(device.memory_bytes is None for device in topology.devices):
        return {}
    needs = needed_bytes(graph, plan, topology)
    limits = {rank: device.memory_bytes for rank, device in enumerate(topology.devices) if device.memory_bytes}
    return {rank: needs[rank] - room(limit) for rank, limit in limits.items() if needs[rank] > room(limit)}


def _footprint(program: Program, device: Device) -> Footprint:
    """Counted by the algorithms that the device's own kernels choose, where they are known."""
    return footprint(program, threads=device.threads, choose=(device.vectors or Vectors()).cheapest)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A rank's part of a conv whose weights can be swapped. ``extra_s``: what computing all slices takes beyond computing it
    from memory, ``read_s``: reading them."""

    layer: int
    spec: ConvSpec
    slices: tuple[Span, ...]
    extra_s: float
    read_s: float

    @property
    def order(self) -> tuple[float, float]:
        """The cheapest per byte saved come first (to a hundredth of reading it); of equal ones the largest."""
        return round(self.extra_s / self.read_s, 2), -self.read_s

    def packed_bytes(self, swapped: int) -> int:
        """What stays in memory without so many slices."""
        left = self._left(swapped)
        if not left:
            return 0
        part = replace(self.spec, out_channels=left)
        return packed_bytes(part, cheapest(part))

    def plain_bytes(self, swapped: int) -> int:
        return BYTES_PER_ELEMENT * self.spec.weight_elements // self.spec.out_channels * self._left(swapped)

    def _left(self, swapped: int) -> int:
        return self.spec.out_channels - sum(len(span) for span in self.slices[len(self.slices) - swapped :])


def _candidates(graph: LayerGraph, plan: Plan, topology: Topology, rank: int) -> list[_Candidate]:
    """The weights that a rank can swap, those first that it should."""
    found = []
    for index, (layer, placement) in enumerate(zip(graph.layers, plan.placements, strict=True)):
        works = [work for work in placement.work if work.rank == rank]
        if isinstance(layer, Conv) and layer.spec.groups == 1 and placement.guard is None and len(works) == 1:
            found.append(_candidate(index, layer, works[0], topology))
    return sorted(found, key=lambda candidate: candidate.order)


def _candidate(index: int, layer: Conv, work: Work, topology: Topology) -> _Candidate:
    spec, whole, device = layer.shard(work).spec, work.output.channels, topology.devices[work.rank]
    step = slice_channels(spec)
    slices = tuple(Span(start, min(start + step, whole.stop)) for start in range(whole.start, whole.stop, step))
    extra_s = device.conv_s(spec) * (slowdown(spec) - 1) + (len(slices) - 1) * device.step_s
    return _Candidate(index, spec, slices, extra_s, device.read_s(len(slices) * slice_bytes(spec, step)))


def _chosen(whole: Footprint, candidates: Sequence[_Candidate], rank: int, room_bytes: int) -> tuple[Swap, ...]:
    """As few slices as leave no more than ``room_bytes`` of a program that takes ``whole`` without, or all that there are.
    The last slices of a layer go first."""
    swapped = [0] * len(candidates)
    for number, candidate in enumerate(candidates):
        while _taken(whole, candidates, swapped, rank) > room_bytes and swapped[number] < len(candidate.slices):
            swapped[number] += 1
    found = [
        Swap(candidate.layer, rank, candidate.slices[-count:])
        for candidate, count in zip(candidates, swapped, strict=True)
        if count
    ]
    return tuple(sorted(found, key=lambda swap: swap.layer))


def _taken(whole: Footprint, candidates: Sequence[_Candidate], swapped: Sequence[int], rank: int) -> int:
    """What a program takes with so many slices of each candidate swapped, estimated from what it takes without."""
    pairs = list(zip(candidates, swapped, strict=True))
    slots = [(slice_bytes(c.spec, len(c.slices[0])), c.plain_bytes(len(c.slices) - 1)) for c, count in pairs if count]
    stay = whole.plain + sum(candidate.plain_bytes(count) for candidate, count in pairs)
    saved = sum(candidate.packed_bytes(0) - candidate.packed_bytes(count) for candidate, count in pairs)
    transit = max([0, *(sum(slot) for slot in slots)])
    return replace(
        whole,
        packed=whole.packed - saved,
        transit=max([transit, *(candidate.plain_bytes(count) for candidate, count in pairs)]),
        slot=max([0, *(packed for packed, _ in slots)]),
        arrival=0 if rank == MASTER or not slots else stay + SHIPPED_BYTES + transit,
    ).total
