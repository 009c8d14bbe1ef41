"""RateSource: where a rank's rates come from, and how far they are to be believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fogconv.hardware.topology import Topology


@dataclass(frozen=True, slots=True)
class RateSource:
    """Where one rank's rates come from.

    ``origin``: "measured now", "remembered", "learnt from runs", a profile's path, "assumed" (of a worker that was lost: the
    rates of the slowest) or "hostfile" (the same, by the rate= that the hostfile gives both). ``age_s`` is None where it is
    not known. ``disturbed``: measured beside other work; see `fogconv.calibration.cache.KnownRates` for the other two.
    """

    rank: int
    device: str
    threads: int
    origin: str
    mac_per_s: Mapping[str, float]
    age_s: float | None = None
    disturbed: bool = False
    spread: float | None = None
    other_cores: float | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "rank": self.rank,
            "device": self.device,
            "threads": self.threads,
            "origin": self.origin,
            "age_s": self.age_s,
            "beside_other_work": self.disturbed,
            "spread": self.spread,
            "other_cores": self.other_cores,
            "mac_per_s": dict(self.mac_per_s),
        }


def profile_sources(topology: Topology, origin: str) -> tuple[RateSource, ...]:
    """The sources of rates that a file gives."""
    return tuple(
        RateSource(rank, device.name, device.threads, origin, rates_of(device.gamma_s_per_mac))
        for rank, device in enumerate(topology.devices)
    )


def assumed(source: RateSource, rank: int, faster: float) -> RateSource:
    """Those of a rank that was never measured: another's, or so many times as fast by the hostfile."""
    rates = {kind: rate * faster for kind, rate in source.mac_per_s.items()}
    return RateSource(rank, source.device, source.threads, "assumed" if faster == 1 else "hostfile", rates)


def rates_of(gamma_s_per_mac: Mapping[str, float]) -> dict[str, float]:
    """MAC/s per kernel class."""
    return {kind: 1 / gamma for kind, gamma in gamma_s_per_mac.items()}
