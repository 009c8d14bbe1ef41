"""The topology that the planner gets: every node's rate and every link, measured in the bed before the quotas apply.

A node's seconds under its quota are its seconds at full speed ÷ its share of a core, so devices are scaled; links keep
their rate. One thing a quota adds: who waits for a message is woken in the middle of the other's period.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence

from fogconv.cluster.measure import Build, conv_seconds, copy_bytes_per_s
from fogconv.cluster.session import Session
from fogconv.geometry import ConvSpec
from fogconv.layers import Conv, LayerGraph
from fogconv.topology import Device, Link, Topology, kernel_class

SPECS_PER_CLASS = 4
LARGE_BYTES = 2_000_000
STEP_S = float(__import__("os").environ.get("STEP_S", "20e-6"))
"""What a step costs beside its kernel: a bound call, a frame handed on."""


def representative(graph: LayerGraph, limit: int = SPECS_PER_CLASS) -> dict[str, list[ConvSpec]]:
    """Per kernel class, a few of the graph's convs from the dearest on."""
    classes: dict[str, list[ConvSpec]] = defaultdict(list)
    specs = {layer.spec for layer in graph.layers if isinstance(layer, Conv)}
    for spec in sorted(specs, key=lambda spec: (-spec.macs, str(spec))):
        chosen = classes[kernel_class(spec)]
        if len(chosen) < limit:
            chosen.append(spec)
    return dict(classes)


def gammas(classes: dict[str, list[ConvSpec]], seconds: Sequence[float]) -> dict[str, float]:
    """γ per class, in seconds per MAC: all its time over all its MACs; "default" is over everything."""
    left = iter(seconds)
    time = {kind: sum(next(left) for _ in specs) for kind, specs in classes.items()}
    macs = {kind: sum(spec.macs for spec in specs) for kind, specs in classes.items()}
    return {"default": sum(time.values()) / sum(macs.values()), **{kind: time[kind] / macs[kind] for kind in classes}}


def measure(session: Session, graph: LayerGraph, shares: Sequence[float], build: Build, sync_s: float = 0.0) -> Topology:
    """Measure every rank alone, then every link to the master; scale the ranks to their shares of a core.

    ``sync_s`` is added to each link's latency: what waiting for a throttled peer costs beyond the wire.
    """
    classes = representative(graph)
    specs = [spec for chosen in classes.values() for spec in chosen]
    devices = [_device(0, gammas(classes, conv_seconds(specs, build)), copy_bytes_per_s())]
    for worker in session.workers:
        [measured] = session.measure(specs, ranks=[worker.rank]).values()
        devices.append(_device(worker.rank, gammas(classes, measured.seconds), measured.copy_bytes_per_s))
    links: dict[tuple[int, int], Link] = {}
    for worker in session.workers:
        small = [session.ping(worker.rank) for _ in range(9)]
        large = [session.ping(worker.rank, LARGE_BYTES) for _ in range(3)]
        # Round trips with the payload one way only.
        for pair, way in (((0, worker.rank), "there_s"), ((worker.rank, 0), "back_s")):
            empty, full = (statistics.median(getattr(times, way) for times in pings) for pings in (small, large))
            links[pair] = Link(empty / 2 + sync_s, max(1e-12, (full - empty) / LARGE_BYTES))
    return Topology(tuple(device.scaled(share) for device, share in zip(devices, shares, strict=True)), links)


def _device(rank: int, gamma: dict[str, float], copy_rate: float) -> Device:
    return Device(f"node {rank}", gamma, 1 / copy_rate, STEP_S)
