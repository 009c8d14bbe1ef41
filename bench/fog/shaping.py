"""Link rates, and the Linux traffic control that enforces them.

A link is a veth pair; an htb class on each end limits the outgoing traffic, so that every node has a full-duplex network
card of the given rate, as on a switch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fogconv.errors import InputError

QUEUE_BYTES = 1_000_000
"""Bytes that may wait at one end of a link. With 150 KB the rate collapses when four nodes send to one at 100 Mbit/s."""

_BITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)bit(?:/s)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rate:
    """Bits per second; ``Rate.parse("100mbit")``."""

    bits_per_s: float

    @staticmethod
    def parse(text: str) -> Rate:
        """Read "1gbit", "100Mbit/s", "2.5 Gbit". Raises InputError."""
        match = _RATE.fullmatch(text.strip())
        if match is None or float(match[1]) <= 0:
            raise InputError(f"rate {text!r} is not a link rate; write it like 100mbit or 1gbit")
        return Rate(float(match[1]) * _BITS[match[2].lower()])

    @property
    def bytes_per_s(self) -> float:
        return self.bits_per_s / 8

    def __str__(self) -> str:
        for unit, size in (("g", 1e9), ("m", 1e6), ("k", 1e3)):
            if self.bits_per_s >= size:
                return f"{self.bits_per_s / size:g}{unit}bit"
        return f"{self.bits_per_s:g}bit"


def burst_bytes(rate: Rate) -> int:
    """The burst: 1 ms of the line rate, and at least two frames."""
    return max(3200, int(rate.bytes_per_s * 1e-3))


def shape(netns: str, device: str, rate: Rate) -> list[list[str]]:
    """The commands that limit the outgoing traffic of ``device`` in ``netns``; run them in order on an unshaped
    device."""
    tc = ["tc", "-n", netns]
    return [
        [*tc, "qdisc", "add", "dev", device, "root", "handle", "1:", "htb", "default", "1"],
        [*tc, "class", "add", *_class(device, rate)],
        [*tc, "qdisc", "add", "dev", device, "parent", "1:1", "bfifo", "limit", str(QUEUE_BYTES)],
    ]


def reshape(netns: str, device: str, rate: Rate) -> list[list[str]]:
    """The commands that change the rate of a shaped device; packets that wait stay."""
    return [["tc", "-n", netns, "class", "change", *_class(device, rate)]]


def _class(device: str, rate: Rate) -> list[str]:
    speed, burst = f"{int(rate.bits_per_s)}bit", str(burst_bytes(rate))
    return [
        "dev",
        device,
        "parent",
        "1:",
        "classid",
        "1:1",
        "htb",
        "rate",
        speed,
        "ceil",
        speed,
        "burst",
        burst,
        "cburst",
        burst,
    ]
