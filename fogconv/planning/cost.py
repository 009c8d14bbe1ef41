"""Costs in seconds and joules, for a search: a shard on a device, and a set of transfers on the network cards.

They are added up along a path, as if nothing overlapped but what is said here. What a finished plan takes, its programs
show (`fogconv.simulation.prediction`).

compute   what `fogconv.hardware.topology.Device.work_s` says of a step of this size
transfer each card is full duplex and moves one byte after the other each way; the busiest card decides, and the
processor's part (cutting, joining, the system's copies) is added, since a fog device has no spare core
joules    what ranks and links take beyond the idle power of all devices, which counts for as long as an inference takes
          (`fogconv.hardware.energy`)
sharing  ranks of one machine share its cores: together they take at least the sum of their processor time over these
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from fogconv.hardware.energy import busy_joules
from fogconv.hardware.topology import Topology, together_s
from fogconv.ir.geometry import BYTES_PER_ELEMENT, ConvSpec, Region
from fogconv.ir.layers import Host, Layer, Tensor
from fogconv.ir.layout import Transfer
from fogconv.ir.precision.elements import ELEMENT_BYTES, Element
from fogconv.ir.shard import Work
from fogconv.ir.steps import PIXEL_BYTES, PIXEL_PASSES, WIRE_BYTES, Wire, copied_bytes

SLICE_WAIT = 0.2
"""A receiver waits, on average, this part of a quota's period for its sender's next slice. Measured with a chain of nodes
that exchange 20 KB with both neighbours: 2 to 4 ms each time, at 0.1 core with periods of 10 ms, beyond computing."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """The sum of several transfers: bytes through each card, (sent, received), and the seconds that they take together.

    ``cpu_s`` of these occupy the busiest rank's processor; the rest can overlap with its computation. ``added`` is the
    time where each is sent with another message, and ``pairs`` are the (sender, receiver) pairs.
    ``joules`` are those beyond the idle power.
    """

    card_bytes: tuple[tuple[float, float], ...]
    seconds: float
    cpu_s: float
    pairs: frozenset[tuple[int, int]] = frozenset()
    added: Traffic | None = None
    joules: float = 0.0


class Prices:
    """Seconds and joules in one topology, for one batch size and one way of coding activations on the wire.

    ``pixels``: for a picture that is sent as bytes. ``element``: of the maps; what is not in fp32 is sent as it is."""

    def __init__(
        self, topology: Topology, batch: int = 1, wire: Wire = "fp32", *, element: Element = "fp32", pixels: bool = False
    ) -> None:
        wire = wire if element == "fp32" else element
        self.topology = topology
        self._elements = batch
        self._element_bytes = (PIXEL_BYTES if pixels else WIRE_BYTES[wire]) * batch
        self._cards = [topology.card(rank) for rank in topology.ranks]
        self._shared = topology.shared_machines
        self._loads = topology.machine_loads
        self._late_s = [SLICE_WAIT * device.period_s if device.share < 1 else 0.0 for device in topology.devices]
        self.idle_watts = sum(device.idle_watts for device in topology.devices)
        # Cached: a link between workers is derived from all links.
        self._link = cache(topology.link)
        # A byte is cut or joined once by the program; the system's part is measured, or estimated as one more copy.
        per_element = (1.0 + PIXEL_PASSES) * ELEMENT_BYTES["fp32"] if pixels else copied_bytes(element, wire)
        cut_bytes = per_element * batch
        self._cut_s = [device.copy_s(cut_bytes) for device in topology.devices]
        self._send_s = [
            self._element_bytes * (device.send_s_per_byte or device.copy_s_per_byte) for device in topology.devices
        ]
        self._receive_s = [
            self._element_bytes * (device.receive_s_per_byte or device.copy_s_per_byte) for device in topology.devices
        ]

    def traffic(self, moves: Iterable[Transfer]) -> Traffic:
        """The traffic of concurrent transfers; those from one rank to another are one message."""
        ranks = len(self.topology)
        sent, received, handled, messages = [0.0] * ranks, [0.0] * ranks, [0.0] * ranks, [0.0] * ranks
        pairs: set[tuple[int, int]] = set()
        latency_s = slowest_s = bytes_j = wake_j = 0.0
        for move in moves:
            elements, copied = move.region.elements, move.region.copied
            n_bytes = elements * self._element_bytes
            link = self._link(move.source, move.target)
            sent[move.source] += n_bytes
            received[move.target] += n_bytes
            for rank, element_s in ((move.source, self._send_s[move.source]), (move.target, self._receive_s[move.target])):
                device = self.topology.devices[rank]
                handled[rank] += copied * self._cut_s[rank] + elements * element_s + device.step_s
                if (move.source, move.target) not in pairs:
                    messages[rank] += device.message_s
            bytes_j += n_bytes * link.joules_per_byte
            if (move.source, move.target) not in pairs:
                wake_j += link.wake_joules
            pairs.add((move.source, move.target))
            late_s = max(self._late_s[move.source], self._late_s[move.target])
            latency_s = max(latency_s, late_s + link.wake_s + link.latency_s * link.messages(n_bytes / BYTES_PER_ELEMENT))
            slowest_s = max(slowest_s, n_bytes * link.s_per_byte)
        card_bytes = tuple(zip(sent, received, strict=True))
        wire_s = [max(sent[rank] * tx, received[rank] * rx) for rank, (tx, rx) in enumerate(self._cards)]
        added_s, added_cpu_s = self._together_s(wire_s, handled)
        added_j = bytes_j + self._busy_j(handled)
        added = Traffic(card_bytes, max(added_s, slowest_s), added_cpu_s, frozenset(pairs), joules=added_j)
        handled = [bytes_s + messages_s for bytes_s, messages_s in zip(handled, messages, strict=True)]
        busiest_s, cpu_s = self._together_s(wire_s, handled)
        joules = bytes_j + wake_j + self._busy_j(handled)
        return Traffic(card_bytes, latency_s + max(busiest_s, slowest_s), cpu_s, frozenset(pairs), added, joules)

    def _busy_j(self, seconds: Sequence[float]) -> float:
        return sum(self.busy_j(rank, each) for rank, each in enumerate(seconds) if each)

    def busy_j(self, rank: int, seconds: float, macs: float = 0.0) -> float:
        """What a rank that works for so long takes beyond its idle power."""
        device = self.topology.devices[rank]
        return busy_joules(device, seconds, macs) - device.idle_watts * seconds

    def work_j(self, layer: Layer, work: Work, tensors: Sequence[Tensor]) -> float:
        """The same of one rank's part of a layer."""
        if isinstance(layer, Host) or layer.relabels:
            return 0.0
        spec = layer.computes(tensors, work)
        macs = spec.macs if isinstance(spec, ConvSpec) else 0.0
        return self.busy_j(work.rank, self.topology.devices[work.rank].work_s(spec), macs)

    def _together_s(self, wire_s: Sequence[float], handled_s: Sequence[float]) -> tuple[float, float]:
        """The busiest rank's seconds on its card and processor, and on its processor alone, where each handles its messages
        on one thread; ranks of one machine share its cores."""
        busiest_s, cpu_s = max(map(sum, zip(wire_s, handled_s, strict=True))), max(handled_s)
        for ranks, cores in self._shared:
            shared_s = sum(handled_s[rank] for rank in ranks) / cores
            busiest_s, cpu_s = max(busiest_s, shared_s), max(cpu_s, shared_s)
        return busiest_s, cpu_s

    def work_s(self, layer: Layer, work: Work, tensors: Sequence[Tensor]) -> float:
        """One rank's part of a layer, on that rank's device."""
        if isinstance(layer, Host) or layer.relabels:
            return 0.0
        return self.topology.devices[work.rank].work_s(layer.computes(tensors, work))

    def finish_s(self, rank: int, region: Region, summands: int) -> float:
        """Summing partial results on a rank and the epilogue over them."""
        device = self.topology.devices[rank]
        return device.step_s + device.copy_s(region.elements * self._elements * BYTES_PER_ELEMENT * (1 + summands))

    def slowest_s(self, layer: Layer, works: Sequence[Work], tensors: Sequence[Tensor]) -> float:
        """T_edge: the ranks work at the same time, each one piece after the other, and share cores where they share a
        machine."""
        per_rank: dict[int, float] = {}
        for work in works:
            per_rank[work.rank] = per_rank.get(work.rank, 0.0) + self.work_s(layer, work, tensors)
        return together_s(per_rank, self._loads)
