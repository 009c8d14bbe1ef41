"""Figures with units: 10GFLOP/s, 100Mbit/s, 0.5ms.

rate        FLOP/s or MAC/s (one MAC is two FLOP), with k, M, G, T
bandwidth   bit/s or B/s, with k, M, G (powers of 1000) or Ki, Mi, Gi (of 1024); "/s" may be left out: 100Mbit
time        s, ms, us or µs, ns
plain       a number without a unit is in FLOP/s, bytes/s, seconds
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from fogconv.errors import InputError

_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|nan|inf)\s*(.*?)\s*", re.IGNORECASE)
_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}
_TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_FLOPS = {"FLOP": 1.0, "FLOPS": 1.0, "MAC": 2.0, "MACS": 2.0}
_BITS = {"bit": 1 / 8, "bits": 1 / 8, "b": 1 / 8, "bps": 1 / 8, "B": 1.0, "Bps": 1.0, "byte": 1.0, "bytes": 1.0, "Byte": 1.0}


def rate_flop_per_s(text: str) -> float:
    """ "10GFLOP/s", "5 GMAC/s", "1e10" → FLOP/s. Raises InputError unless positive."""
    value, unit = _parse(text, "rate", "such as 10GFLOP/s or 5GMAC/s")
    return value * _scale(text, unit, _FLOPS, _DECIMAL, upper=True, what="rate", hint="10GFLOP/s or 5GMAC/s")


def bandwidth_bytes_per_s(text: str) -> float:
    """ "100Mbit/s", "1Gbit", "12.5MB/s", "1e7" → bytes per second. Raises InputError unless positive."""
    value, unit = _parse(text, "bandwidth", "such as 100Mbit/s or 12.5MB/s")
    prefixes = {**_DECIMAL, **_BINARY}
    return value * _scale(text, unit, _BITS, prefixes, upper=False, what="bandwidth", hint="100Mbit/s or 12.5MB/s")


def seconds(text: str) -> float:
    """ "0.5ms", "200us", "0.001" → seconds. Raises InputError for negative ones."""
    value, unit = _parse(text, "time", "such as 0.5ms", positive=False)
    if unit and unit not in _TIMES:
        raise InputError(f"time {text!r}: the unit {unit!r} is not known; write s, ms, us or ns, such as 0.5ms")
    return value * _TIMES.get(unit, 1.0)


def sweep(text: str) -> tuple[str, float, float]:
    """ "bandwidth=10Mbit..10Gbit" (or rate=…, latency=…) → (name, least, greatest), in the units above."""
    name, equals, ends = text.partition("=")
    first, dots, last = ends.partition("..")
    parsers = {"bandwidth": bandwidth_bytes_per_s, "rate": rate_flop_per_s, "latency": seconds}
    if not equals or not dots or name not in parsers:
        raise InputError(f"sweep {text!r}: write bandwidth=10Mbit..10Gbit, rate=1GFLOP/s..1TFLOP/s or latency=0.01ms..10ms")
    least, greatest = parsers[name](first), parsers[name](last)
    if not 0 < least < greatest:
        raise InputError(f"sweep {text!r}: it must rise from a positive figure to a greater one")
    return name, least, greatest


def _parse(text: str, what: str, hint: str, *, positive: bool = True) -> tuple[float, str]:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise InputError(f"{what} {text!r} does not start with a number; write it {hint}")
    value = float(match[1])
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        raise InputError(f"{what} {text!r}: it must be {'positive' if positive else 'zero or more'}")
    return value, match[2]


def _scale(
    text: str,
    unit: str,
    bases: Mapping[str, float],
    prefixes: Mapping[str, float],
    *,
    upper: bool,
    what: str,
    hint: str,
) -> float:
    if not unit:
        return 1.0
    bare = unit.removesuffix("/s")
    if upper:
        bare = bare.upper()
    for prefix, factor in prefixes.items():
        base = bases.get(bare.removeprefix(prefix))
        if bare.startswith(prefix) and base is not None:
            return factor * base
    raise InputError(f"{what} {text!r}: the unit {unit!r} is not known; write it such as {hint}")


def show_bandwidth(bytes_per_s: float) -> str:
    """Bits per second with a prefix: "94.3 Mbit/s"."""
    return f"{_prefixed(bytes_per_s * 8)}bit/s"


def show_rate(flop_per_s: float) -> str:
    """FLOP/s with a prefix: "31.2 GFLOP/s"."""
    return f"{_prefixed(flop_per_s)}FLOP/s"


def show_seconds(value: float) -> str:
    """Three digits and a unit: "0.512 ms"."""
    if value == 0:
        return "0 s"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale * 0.9995:
            return f"{_digits(value / scale)} {unit}"
    return f"{_digits(value / 1e-9)} ns"


def _prefixed(value: float) -> str:
    for prefix, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale * 0.9995:
            return f"{_digits(value / scale)} {prefix}"
    return f"{_digits(value)} "


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.3g}"


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def parse_bytes(text: str) -> int:
    """``900M``, ``1.5G``, ``512Mi`` or a plain number as bytes; empty: 0. Raises InputError."""
    if not text:
        return 0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?I?)B?", text.strip().upper())
    if match is None or match[2] not in _UNITS or float(match[1]) == 0:
        raise InputError(f"--memory {text!r} is not an amount of memory; write 900M, 1.5G or 512Mi")
    return int(float(match[1]) * _UNITS[match[2]])
