"""Energy: the joules of an inference, from the power and the costs that devices and links have.

    E = Σ over devices  busy_watts · busy + idle_watts · (latency − busy)
      + Σ over links    joules_per_byte · bytes + wake_joules · messages

A device without busy_watts takes joules_per_mac for each of its MACs. Presets have published figures or estimates
(fogconv/hardware/data/presets.json names the sources); a measured profile has none until its user writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fogconv.hardware.topology import Device, Topology


def without_energy(topology: Topology) -> tuple[int, ...]:
    """The ranks whose energy is not known."""
    return tuple(rank for rank, device in enumerate(topology.devices) if not device.busy_watts and not device.joules_per_mac)


def busy_joules(device: Device, seconds: float, macs: float) -> float:
    """What a device takes that computes for so long, so many MACs of it."""
    return device.busy_watts * seconds if device.busy_watts else device.joules_per_mac * macs


def joules(
    topology: Topology,
    *,
    latency_s: float,
    busy_s: Sequence[float],
    macs: Sequence[float],
    sent_bytes: Mapping[tuple[int, int], float],
    messages: Mapping[tuple[int, int], int] | None = None,
) -> float:
    """The joules of one inference. Per rank: the seconds for which it computes and its MACs; per pair (from, to) the bytes
    and the messages, each of which wakes a radio that sleeps. All devices of the topology count for the whole latency,
    those that only wait too.
    """
    total = 0.0
    for device, busy, count in zip(topology.devices, busy_s, macs, strict=True):
        total += busy_joules(device, busy, count)
        total += device.idle_watts * max(0.0, latency_s - busy)
    total += sum(topology.link(*pair).wake_joules * count for pair, count in (messages or {}).items())
    return total + sum(topology.link(*pair).joules_per_byte * size for pair, size in sent_bytes.items())
