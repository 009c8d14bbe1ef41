"""Record: the file that `fogconv bench` writes, as plain JSON.

{"fogconv_bench": 1, "set": 1, "quick": false, "cluster": "inproc://0", "cpu": "…", "versions": {…}, "load": 0.1, …
 "machines": [{"rank": 0, "host": "pi5", "cores": 4, "threads": 4, "isa": "neon", …}],
 "items": [{"group": "nets", "name": "resnet18", "seconds": 0.051, "quartiles": [0.050, 0.052], "runs": 30, …}, …]}
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from fogconv.errors import InputError
from fogconv.storage.trusted import read_plain

VERSION = 1
GROUPS = ("kernels", "links", "nets")

Seconds = Annotated[float, Meta(gt=0, le=1e6)]


class Item(msgspec.Struct, frozen=True):
    """One thing that was timed: the median of its runs in seconds, and their first and third quartile. ``detail`` says how
    it ran."""

    group: Literal["kernels", "links", "nets"]
    name: str
    seconds: Seconds
    quartiles: tuple[Seconds, Seconds]
    runs: int
    detail: str = ""

    @property
    def spread(self) -> float:
        """(Third quartile − first) ÷ median."""
        return (self.quartiles[1] - self.quartiles[0]) / self.seconds


class Machine(msgspec.Struct, frozen=True):
    """What one rank ran on. ``quota_cores``: what a control group grants, 0 for all cores."""

    rank: int
    host: str
    cores: int
    quota_cores: float
    threads: int
    isa: str
    kernels: str
    software: str


class Record(msgspec.Struct, frozen=True):
    """``measured_at``: seconds since 1970. ``cpu``: the master's processor. ``load``: runnable processes at the begin, on
    average over a minute; ``other_cores``: cores of the master that other work kept busy just before. ``skipped``: items
    that could not run, with the reasons. ``precision``: of the kernels and nets."""

    fogconv_bench: int
    set: int
    quick: bool
    measured_at: float
    took_s: float
    cluster: str
    cpu: str
    versions: dict[str, str]
    load: float
    other_cores: float
    machines: tuple[Machine, ...]
    items: tuple[Item, ...]
    skipped: dict[str, str] = {}
    precision: str = "fp32"


class _Version(msgspec.Struct):
    fogconv_bench: int


def write_record(record: Record, path: Path) -> None:
    """Write indented JSON. Raises InputError if the file can't be written."""
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror or error}") from error


def read_record(path: Path) -> Record:
    """Raises InputError for a file that is not a record of this version."""
    try:
        data = read_plain(path)
        version = msgspec.json.decode(data, type=_Version).fogconv_bench
        if version != VERSION:
            raise InputError(f"{path} is of version {version}; this fogconv reads {VERSION}: run `fogconv bench` again")
        return msgspec.json.decode(data, type=Record)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is no result of `fogconv bench`: {error}") from error
