"""The hostfile: one file that MPICH's and Open MPI's mpirun and fogconv's ZeroMQ all accept.

MPICH rejects trailing comments and ``slots=`` and reads ``host:5555`` as 5,555 ranks. Bare hosts, ``host:SLOTS`` and
whole-line comments work everywhere, so the settings for ZeroMQ are in such a comment before the host.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fogconv.errors import InputError, TopologyError, quoted
from fogconv.hardware.address import LAST_PORT, host_of
from fogconv.hardware.tiers import check_tier
from fogconv.storage.trusted import read_plain

DEFAULT_PORT = 5555
"""A worker's default port."""

MAX_SLOTS = 1024
"""A larger number of ranks on one host is treated as a port given by mistake."""

MOST_RATE = 1e6
"""How many times as fast as another a host may be."""


@dataclass(frozen=True, slots=True)
class Host:
    """A line of a hostfile. ``rate`` is relative (2: twice as fast as a host of rate 1); ``tier`` is one of
    `fogconv.hardware.tiers.TIERS`; ``line`` counts from 1."""

    name: str
    slots: int = 1
    port: int | None = None
    rate: float | None = None
    line: int = 0
    tier: str | None = None

    @property
    def ports(self) -> range:
        """Where its workers listen over ZeroMQ: consecutive ports from its own, or the default one, on."""
        first = self.port or DEFAULT_PORT
        return range(first, first + self.slots)


@dataclass(frozen=True, slots=True)
class _Settings:
    """What a #fogconv comment says of the host after it."""

    port: int | None = None
    rate: float | None = None
    tier: str | None = None


_HOST = re.compile(r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?::(?P<slots>\S*))?")


def read_hostfile(path: str | Path) -> tuple[Host, ...]:
    """The hosts of a file that MPICH's and Open MPI's mpirun read too, in its order.

    One host, or ``host:SLOTS``, per line; whole-line comments; ``#fogconv port=5555 rate=2 tier=edge`` on a line of its own
    applies to the next host. Raises TopologyError with the line's number.
    """
    try:
        text = read_plain(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is not a text file"
        raise TopologyError(f"hostfile {path}: can't be read: {reason}") from error
    return parse_hostfile(text, str(path))


def parse_hostfile(text: str, where: str = "hostfile") -> tuple[Host, ...]:
    """``read_hostfile`` on text; ``where`` names it in messages."""
    hosts = tuple(_hosts(text, where))
    if not hosts:
        raise TopologyError(f"{where}: it lists no host")
    taken: dict[tuple[str, int], int] = {}
    for host in hosts:
        if host.port is None:
            continue  # for mpirun, a host may be listed again
        for port in host.ports:
            before = taken.setdefault((host.name.lower(), port), host.line)
            if before != host.line:
                raise TopologyError(f"{where}, line {host.line}: {host.name} port {port} is listed already in line {before}")
    return hosts


def _hosts(text: str, where: str) -> Iterator[Host]:
    pending = _Settings()
    pending_line = 0
    for number, raw in enumerate(text.splitlines(), start=1):
        line, at = raw.strip(), f"{where}, line {number}"
        if not line:
            continue
        if line.startswith("#"):
            words = line[1:].split()
            if words[:1] == ["fogconv"]:
                if pending_line:
                    raise TopologyError(f"{at}: the #fogconv comment in line {pending_line} has no host after it")
                pending, pending_line = _settings(words[1:], at), number
            continue
        yield _host(line, at, pending, number)
        pending, pending_line = _Settings(), 0
    if pending_line:
        raise TopologyError(f"{where}, line {pending_line}: the #fogconv comment has no host after it")


def _host(line: str, at: str, settings: _Settings, number: int) -> Host:
    if "#" in line:
        raise TopologyError(f"{at}: {quoted(line)}: MPICH takes no comment after a host; put it on a line of its own")
    if "=" in line:
        raise TopologyError(
            f"{at}: {quoted(line)}: MPICH takes no slots=, write host:SLOTS; port and rate go into a line "
            "'#fogconv port=5555 rate=2' before the host"
        )
    match = _HOST.fullmatch(line)
    if match is None:
        raise TopologyError(f"{at}: {quoted(line)} is neither a host nor host:SLOTS")
    try:
        host_of(match["name"])
    except InputError as error:
        raise TopologyError(f"{at}: {error}") from None
    slots = 1
    if match["slots"] is not None:
        slots = _whole(match["slots"], f"{at}: the slots of {match['name']}", LAST_PORT)
    if slots > MAX_SLOTS:
        raise TopologyError(
            f"{at}: {quoted(line)} asks for {slots} ranks; a port goes into a line '#fogconv port={slots}' before the host"
        )
    host = Host(match["name"], slots, settings.port, settings.rate, number, settings.tier)
    if host.ports[-1] > LAST_PORT:
        raise TopologyError(f"{at}: {slots} workers from port {host.ports[0]} on would need ports over {LAST_PORT}")
    return host


def _settings(words: Sequence[str], at: str) -> _Settings:
    found = _Settings()
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in ("port", "rate", "tier"):
            raise TopologyError(
                f"{at}: {quoted(word)} is not known; a #fogconv comment takes port=PORT, rate=RATE and tier=TIER"
            )
        if getattr(found, key) is not None:
            raise TopologyError(f"{at}: {key} is given twice")
        match key:
            case "port":
                found = replace(found, port=_whole(value, f"{at}: port", LAST_PORT))
            case "rate":
                found = replace(found, rate=_positive(value, f"{at}: rate"))
            case "tier":
                found = replace(found, tier=_tier(value, at))
    return found


def _tier(text: str, at: str) -> str:
    try:
        return check_tier(text)
    except TopologyError as error:
        raise TopologyError(f"{at}: {error}") from None


def _whole(text: str, what: str, most: int) -> int:
    if not (text.isascii() and text.isdigit()) or not text.strip("0"):
        raise TopologyError(f"{what}: {quoted(text)} is not a whole number of at least 1")
    digits = text.lstrip("0")
    if len(digits) > len(str(most)) or int(digits) > most:
        raise TopologyError(f"{what}: {quoted(text)} is over {most}")
    return int(digits)


def _positive(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise TopologyError(f"{what}: {quoted(text)} is not a positive number")
    if not 1 / MOST_RATE <= value <= MOST_RATE:
        raise TopologyError(f"{what}: {quoted(text)} is not between {1 / MOST_RATE:g} and {MOST_RATE:g}")
    return value
