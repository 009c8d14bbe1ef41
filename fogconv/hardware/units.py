"""Figures with units: 10GFLOP/s, 100Mbit/s, 0.5ms.

rate        FLOP/s or MAC/s (one MAC is two FLOP), with k, M, G, T
bandwidth   bit/s or B/s, with k, M, G (powers of 1000) or Ki, Mi, Gi (of 1024); "/s" may be left out: 100Mbit
time        s, ms, us or µs, ns
energy      J, mJ, kJ
plain       a number without a unit is in FLOP/s, bytes/s, seconds
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from fogconv.errors import InputError, shown
from fogconv.values import table
from fogconv.values.number import Number

_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|nan|inf)\s*(.*?)\s*", re.IGNORECASE | re.ASCII)
_LONGEST = 60
_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}
_TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_JOULES = {"J": 1.0, "mJ": 1e-3, "kJ": 1e3}
_FLOPS = {"FLOP": 1.0, "FLOPS": 1.0, "MAC": 2.0, "MACS": 2.0}
_BITS = {"bit": 1 / 8, "bits": 1 / 8, "b": 1 / 8, "bps": 1 / 8, "B": 1.0, "Bps": 1.0, "byte": 1.0, "bytes": 1.0, "Byte": 1.0}


def rate_flop_per_s(text: str) -> float:
    """ "10GFLOP/s", "5 GMAC/s", "1e10" → FLOP/s. Raises InputError unless it is in the range of `fogconv.values.table`."""
    value, unit = _parse(text, "rate", "such as 10GFLOP/s or 5GMAC/s")
    scale = _scale(text, unit, _FLOPS, _DECIMAL, upper=True, what="rate", hint="10GFLOP/s or 5GMAC/s")
    return _within(table.FLOP_RATE, value * scale, text, "rate")


def bandwidth_bytes_per_s(text: str) -> float:
    """ "100Mbit/s", "1Gbit", "12.5MB/s", "1e7" → bytes per second. Raises InputError as above."""
    value, unit = _parse(text, "bandwidth", "such as 100Mbit/s or 12.5MB/s")
    prefixes = {**_DECIMAL, **_BINARY}
    scale = _scale(text, unit, _BITS, prefixes, upper=False, what="bandwidth", hint="100Mbit/s or 12.5MB/s")
    return _within(table.BANDWIDTH, value * scale, text, "bandwidth")


def seconds(text: str) -> float:
    """ "0.5ms", "200us", "0.001" → seconds. Raises InputError for negative ones, and for more than 10,000 s."""
    value, unit = _parse(text, "time", "such as 0.5ms")
    if unit and unit not in _TIMES:
        raise InputError(f"time {shown(text)}: the unit {shown(unit)} is not known; write s, ms, us or ns, such as 0.5ms")
    return _within(table.LATENCY, value * _TIMES.get(unit, 1.0), text, "time")


def deadline_s(text: str) -> float:
    """The same, of a time limit: a microsecond at least."""
    return _within(table.DEADLINE, seconds(text), text, "time")


def joules(text: str) -> float:
    """ "1J", "250 mJ", "0.25" → joules. Raises InputError unless they are in the range of `fogconv.values.table`."""
    value, unit = _parse(text, "energy", "such as 1J or 250mJ")
    if unit and unit not in _JOULES:
        raise InputError(f"energy {shown(text)}: the unit {shown(unit)} is not known; write J, mJ or kJ, such as 250mJ")
    return _within(table.ENERGY, value * _JOULES.get(unit, 1.0), text, "energy")


def sweep(text: str) -> tuple[str, float, float]:
    """ "bandwidth=10Mbit..10Gbit" (or rate=…, latency=…) → (name, least, greatest), in the units above."""
    name, equals, ends = text.partition("=")
    first, dots, last = ends.partition("..")
    parsers = {"bandwidth": bandwidth_bytes_per_s, "rate": rate_flop_per_s, "latency": seconds}
    if not equals or not dots or name not in parsers:
        raise InputError(
            f"sweep {shown(text)}: write bandwidth=10Mbit..10Gbit, rate=1GFLOP/s..1TFLOP/s or latency=0.01ms..10ms"
        )
    least, greatest = parsers[name](first), parsers[name](last)
    if not 0 < least < greatest:
        raise InputError(f"sweep {shown(text)}: it must rise from a positive figure to a greater one")
    return name, least, greatest


def _parse(text: str, what: str, hint: str) -> tuple[float, str]:
    match = _NUMBER.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise InputError(f"{what} {shown(text)} does not start with a number; write it {hint}")
    return float(match[1]), match[2]


def _within(kind: Number, value: float, text: str, what: str) -> float:
    try:
        kind.check(what, value)
    except InputError:
        raise InputError(f"{what} {shown(text)}: {kind.rule}") from None
    return value


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
    raise InputError(f"{what} {shown(text)}: the unit {shown(unit)} is not known; write it such as {hint}")


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
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([KMG]?I?)B?", text.strip().upper())
    if match is None or match[2] not in _UNITS or float(match[1]) == 0:
        raise InputError(f"--memory {shown(text)} is not an amount of memory; write 900M, 1.5G or 512Mi")
    return int(float(match[1]) * _UNITS[match[2]])
