"""Option values: conversion of an option's text to its value, or to one sentence. Every option that takes a value has
one.

An option is declared with ``typer.Option(parser=whole(table.THREADS))``. Checks that Python's options need as well are in
`fogconv.values`; this module has those for the command line only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import typer

from fogconv.errors import InputError, shown
from fogconv.hardware.units import (
    bandwidth_bytes_per_s,
    deadline_s,
    joules,
    parse_bytes,
    rate_flop_per_s,
    seconds,
    show_bandwidth,
    sweep,
)
from fogconv.values import paths, table
from fogconv.values.number import Number
from fogconv.zoo.model_request import is_model_file

Kind = Literal[
    "count", "seconds", "bytes", "joules", "rate", "ratio", "figure", "pixels", "sizes", "ratios", "seed", "input",
    "file", "output", "folder", "picture", "pictures", "weights", "model", "net", "address", "trigger", "split", "straggler",
    "sweep", "pin", "rates", "executor", "tiles",
]  # fmt: skip
"""The kinds for which tests have bad values."""

LONGEST_TEXT = 255


@dataclass(frozen=True, slots=True)
class OptionValue:
    """``read`` converts a text to a value and raises InputError, without the option's name. Typer calls this as a
    parser."""

    kind: Kind
    read: Callable[[str], Any]
    number: Number | None = None

    @property
    def __name__(self) -> str:
        return self.kind

    def __call__(self, given: Any) -> Any:
        if not isinstance(given, str):
            return given  # a default
        try:
            return self.read(given)
        except InputError as error:
            raise typer.BadParameter(str(error)) from None


def number(kind: Kind, of: Number) -> OptionValue:
    return OptionValue(kind, of.read, of)


def checked(kind: Kind, check: Callable[[str], object], called: str) -> OptionValue:
    """The checked text itself; it is interpreted where it is used. The check's messages begin with what it is ``called``,
    which the option's name replaces."""

    def read(text: str) -> str:
        try:
            check(text)
        except InputError as error:
            raise InputError(str(error).removeprefix(f"{called} ")) from None
        return text

    return OptionValue(kind, read)


# Figures with units

RATE = checked("rate", rate_flop_per_s, "rate")
BANDWIDTH = checked("rate", bandwidth_bytes_per_s, "bandwidth")
TIME = checked("seconds", seconds, "time")
DEADLINE = checked("seconds", deadline_s, "time")
ENERGY = checked("joules", joules, "energy")
SWEEP = checked("sweep", sweep, "sweep")


def _memory(text: str) -> int:
    try:
        found = parse_bytes(text)
        table.MEMORY.check("memory", found)
    except InputError:
        least, most = (f"{bound / 1e6:.0f}M" for bound in (table.MEMORY.least, table.MEMORY.most))
        raise InputError(f"{shown(text)}: write 900M, 1.5G or 512Mi; from {least} to {most}") from None
    return found


MEMORY = OptionValue("bytes", _memory, table.MEMORY)

# Files

FILE = OptionValue("file", paths.readable)
FOLDER = OptionValue("folder", paths.folder)


def output(*suffixes: str) -> OptionValue:
    """A file to write, with one of these suffixes, if there are any."""
    return OptionValue("output", lambda text: paths.writable(text, suffixes))


def _named(text: str) -> str:
    if not text or len(text) > LONGEST_TEXT or not text.isprintable():
        raise InputError(f"{shown(text)}: it must be a name of 1 to {LONGEST_TEXT} printable characters")
    return text


def _model(text: str) -> str:
    return str(paths.readable(text)) if is_model_file(text) else _named(text)


def _weights(text: str) -> str:
    return text if text in ("pretrained", "random") else str(paths.readable(text))


def _picture(text: str) -> str:
    """A file, the name of a sample, or "-". A name with undecodable bytes is one of a file only."""
    if text == "-":
        return text
    path = paths.named(text)
    return str(paths.readable(text)) if path.exists() or len(path.parts) > 1 or path.suffix else _named(text)


def _pictures(text: str) -> str:
    """Like `_picture`, or a folder."""
    return text if text and paths.named(text).is_dir() else _picture(text)


def _input(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not name:
        raise InputError(f"{shown(text)}: write NAME=FILE.npy, such as image_shape=shape.npy")
    return _named(name), paths.readable(path)


INPUT = OptionValue("input", _input)
"""An input of the model beside its pictures, and the file with its values."""
NET = OptionValue("net", _named)
MODEL = OptionValue("model", _model)
WEIGHTS = OptionValue("weights", _weights)
PICTURE = OptionValue("picture", _picture)
PICTURES = OptionValue("pictures", _pictures)

# Addresses


def _cluster(text: str) -> str:
    from fogconv.cluster.connect import addresses_of  # imported late: it imports numpy and the session

    if "://" not in text:
        paths.readable(text)
    addresses_of(text)
    return text


def _bind(text: str) -> str:
    from fogconv.cluster.transport_registry import listening_forms, transport_of
    from fogconv.hardware.address import parse_address

    if transport_of(text).listen is None:
        raise InputError(f"{shown(text)}: no worker listens there; write {listening_forms()}")
    parse_address(text, listening=True)
    return text


def _executor(text: str) -> None:
    from fogconv.cluster.executor.executors import known_executor  # late, as above

    known_executor(text)


EXECUTOR = checked("executor", _executor, "executor")
CLUSTER = OptionValue("address", _cluster)
BIND = OptionValue("address", _bind)

# Several numbers in one text


@dataclass(frozen=True, slots=True)
class Pair:
    """A size both ways: 3 or 1x7."""

    vertical: int
    horizontal: int

    def __str__(self) -> str:
        return f"{self.vertical}" if self.vertical == self.horizontal else f"{self.vertical}x{self.horizontal}"

    @property
    def both(self) -> tuple[int, int]:
        return self.vertical, self.horizontal

    @property
    def pixels(self) -> int | tuple[int, int]:
        """As models name the size of their pictures: one number for a square."""
        return self.vertical if self.vertical == self.horizontal else self.both


@dataclass(frozen=True, slots=True)
class Numbers:
    """Several numbers with commas."""

    each: tuple[float, ...]

    def __str__(self) -> str:
        return ",".join(f"{one:g}" for one in self.each)


@dataclass(frozen=True, slots=True)
class Rates:
    """Several bandwidths with commas."""

    bytes_per_s: tuple[float, ...]

    def __str__(self) -> str:
        return ",".join(show_bandwidth(one).replace(" ", "") for one in self.bytes_per_s)


@dataclass(frozen=True, slots=True)
class Straggler:
    """Rank ``rank`` takes ``factor`` times as long: 3x4."""

    rank: int
    factor: float

    def __str__(self) -> str:
        return f"{self.rank}x{self.factor:g}"


def sizes(of: Number, usual: str = "") -> OptionValue:
    """One whole number or two; None for the word ``usual``."""
    known = f", or {usual}" if usual else ""

    def read(text: str) -> Pair | None:
        if usual and text == usual:
            return None
        first, cross, second = text.replace("×", "x").partition("x")
        try:
            return Pair(int(of.read(first)), int(of.read(second if cross else first)))
        except InputError:
            raise InputError(f"{shown(text)}: write a whole number or two, as in 14x28{known}: {of.rule}") from None

    return OptionValue("sizes", read, of)


SIZE = sizes(table.SIDE)
"""Of pictures: 224 or 960x1280."""


def ratios(of: Number, such_as: str, count: int | None = None) -> OptionValue:
    """Numbers with commas, ``count`` of them or up to one for each rank."""

    def read(text: str) -> Numbers:
        parts = text.split(",")
        try:
            if (count is not None and len(parts) != count) or len(parts) > table.RANKS.most:
                raise InputError(text)
            return Numbers(tuple(of.read(part) for part in parts))
        except InputError:
            many = "numbers" if count is None else f"{count} numbers"
            raise InputError(f"{shown(text)}: write {many} with commas, such as {such_as}: {of.rule}") from None

    return OptionValue("ratios", read, of)


def _bandwidths(text: str) -> Rates:
    parts = text.split(",")
    if len(parts) > table.MOST_RATES:
        raise InputError(f"{shown(text)}: write up to {table.MOST_RATES} bandwidths with commas, such as 100Mbit,1Mbit")
    return Rates(tuple(bandwidth_bytes_per_s(part) for part in parts))


BANDWIDTHS = OptionValue("rates", _bandwidths)


def _straggler(text: str) -> Straggler:
    match = re.fullmatch(r"([0-9]+)x(.+)", text)
    try:
        if match is None:
            raise InputError(text)
        return Straggler(int(table.RANK.read(match[1])), table.SPEED.read(match[2]))
    except InputError:
        raise InputError(f"{shown(text)}: write RANKxFACTOR, such as 3x4 for rank 3 four times as slow") from None


STRAGGLER = OptionValue("straggler", _straggler)


def _trigger(text: str) -> None:
    from fogconv.speedup.trigger import Trigger  # imported late: it imports the topology

    Trigger.parse(text)


TRIGGER = checked("trigger", _trigger, "trigger")


def _split(text: str) -> None:
    from fogconv.speedup.trigger import parse_split  # late, as above

    parse_split(text)


SPLIT = checked("split", _split, "split")


def _pin(text: str) -> None:
    from fogconv.planning.limits.pins import Pin  # late, as above

    Pin.parse(text)


PIN = checked("pin", _pin, "pin")


def _tiles(text: str) -> None:
    from fogconv.planning.limits.tiling import Tiling  # late, as above

    Tiling.parse(text)


TILES = checked("tiles", _tiles, "tiles")
