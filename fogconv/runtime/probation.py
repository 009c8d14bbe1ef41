"""Probation: workers that were left without work for being slow are probed again periodically. Pure: no I/O, no clock.

`fogconv.runtime.drift` uses the times of runs, so it can't notice the recovery of a rank that a new plan leaves out, such
as a repaired link or a device that has cooled down. Such a rank is probed after FIRST_S, and after twice as long each
time that it is still slow; a probe takes about ten ms where the rank has recovered.

    first      the topology at the start of the session
    now        the topology with all corrections
    recovered  closer to the first than to the corrected figure (in logarithms)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from fogconv.hardware.topology import Link, Topology
from fogconv.ir.geometry import ConvSpec

FIRST_S, LONGEST_S = 5.0, 320.0
PROBE_S = 0.02
LEAST_PROBE_BYTES, MOST_PROBE_BYTES = 16 << 10, 4 << 20


@dataclass(frozen=True, slots=True)
class Probation:
    """``waiting[rank]``: when it is probed next (s, by a monotonic clock), and the length of that wait in s."""

    waiting: Mapping[int, tuple[float, float]] = field(default_factory=dict)

    def watch(self, left_out: Collection[int], now_s: float) -> Probation:
        """Probe these ranks, which are without work because of a correction, and no others."""
        new = (now_s + FIRST_S, FIRST_S)
        return Probation({rank: self.waiting.get(rank, new) for rank in left_out})

    def due(self, now_s: float) -> tuple[int, ...]:
        return tuple(sorted(rank for rank, (at_s, _) in self.waiting.items() if now_s >= at_s))

    def still_slow(self, rank: int, now_s: float) -> Probation:
        waits_s = min(LONGEST_S, 2 * self.waiting[rank][1])
        return Probation({**self.waiting, rank: (now_s + waits_s, waits_s)})


def probe_bytes(link: Link) -> int:
    """A payload that would take PROBE_S on this link."""
    return round(min(MOST_PROBE_BYTES, max(LEAST_PROBE_BYTES, PROBE_S / max(link.s_per_byte, 1e-12))))


def link_recovered(first: Link, corrected: Link, n_bytes: int, seconds: float) -> bool:
    """Whether a link has recovered; ``seconds`` is the time for so many bytes one way and an empty reply."""
    before_s, thin_s = (2 * first.latency_s + n_bytes * link.s_per_byte for link in (first, corrected))
    return _nearer_to_first(before_s, thin_s, seconds)


def device_recovered(first: Topology, now: Topology, rank: int, spec: ConvSpec, seconds: float) -> bool:
    """Whether a device has recovered; ``seconds`` is the time of one conv."""
    before_s, slow_s = (topology.devices[rank].conv_s(spec) for topology in (first, now))
    return _nearer_to_first(before_s, slow_s, seconds)


def restored(first: Topology, now: Topology, rank: int) -> Topology:
    """The corrected topology with the first figures for this rank and all its links."""
    links = {pair: link for pair, link in now.links.items() if rank not in pair}
    links |= {pair: link for pair, link in first.links.items() if rank in pair}
    return replace(now.replace_device(rank, first.devices[rank]), links=links)


def _nearer_to_first(first_s: float, corrected_s: float, seconds: float) -> bool:
    return seconds < math.sqrt(first_s * corrected_s) or corrected_s <= first_s
