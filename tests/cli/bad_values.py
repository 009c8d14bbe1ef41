"""Bad values: what no option may take, by the kind of its value."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from fogconv.cli import app
from fogconv.cli.options.values import OptionValue
from fogconv.values.number import Number

NUMBERS = (
    "", " ", "x", "nan", "NaN", "-nan", "-inf", "1e300", "-1e300", "9" * 400, "9" * 5000, "-" + "9" * 400, "0xff", "1_0",
    "１２", "--", "1 2", "1e", "\udcff", "\x1b[31m", "1\n2", "a\0b",
)  # fmt: skip
WHOLE = ("0.5", "1e9", "inf", "1.0")
TEXTS = ("", "n" * 256, "n" * 100_000, "\x1b[31mred", "a\nb", "a\0b", "\udcff\udcfe")
QUANTITIES = (
    "", "x", "nan", "inf", "-1", "1e-320", "1e300", "1e999", "9" * 400, "9" * 5000, "1parsec", "1 2", "G", "\udcff", "a\0b",
)  # fmt: skip
PATHS = ("", "n" * 256, "n" * 100_000, "~nosuchuser/file", "~nosuchuser", "a\0b", "/nowhere/to/be/found", "\udcff\udcfe/x")
BAD: Mapping[str, tuple[str, ...]] = {
    "count": NUMBERS + WHOLE,
    "pixels": NUMBERS + WHOLE,
    "seed": NUMBERS + WHOLE,
    "seconds": (*NUMBERS, *(text for text in QUANTITIES if text != "1e-320"), "1h"),
    "ratio": NUMBERS,
    "figure": (*NUMBERS, "inf"),
    "bytes": (*QUANTITIES, "0", "1K", "-1G", "1e30", "900MM"),
    "joules": (*QUANTITIES, "0", "1W", "-1J", "1JJ"),
    "rate": (*QUANTITIES, "0"),
    "sizes": (*NUMBERS, "1.5", "0x", "3x", "x3", "3x3x3", "-1", "1e9", "inf", "99999999", "3x9999999999"),
    "ratios": (*NUMBERS, "1,x", "1,nan,1", "1,,1", "1,inf,1", "1,1e300,1", ",".join("1" * 2000)),
    "file": (*PATHS, "missing", "FOLDER", "PIPE", "SOCKET", "/dev/zero", "/dev/tty"),
    "input": (*TEXTS, "x", "=missing", "x=", "x=missing.npy", "x=FOLDER", "x=/dev/zero", "x\x1b=missing"),
    "output": (*(path for path in PATHS if path != "\udcff\udcfe/x"), "FOLDER", "PIPE", "SOCKET", "FILE/x", "\udcff/x"),
    "folder": ("", "n" * 256, "~nosuchuser", "a\0b", "FILE", "PIPE", "SOCKET", "/dev/zero", "FILE/x"),
    "picture": (*TEXTS, "~nosuchuser/x.png", "missing.png", "/nowhere", "FOLDER", "PIPE", "SOCKET", "/dev/zero"),
    "pictures": (*TEXTS, "~nosuchuser/x.png", "missing.png", "/nowhere", "PIPE", "SOCKET", "/dev/zero"),
    "weights": (*PATHS, "missing", "FOLDER", "PIPE", "SOCKET", "/dev/zero"),
    "net": TEXTS,
    "model": (*TEXTS, "missing.pt2", "~nosuchuser/x.pt2", "PIPE.pt2", "FOLDER.pt2", "x" * 300 + ".pt2"),
    "address": (
        "", "n" * 256, "~nosuchuser/hosts", "missing", "FOLDER", "PIPE", "/dev/zero", "tcp://", "tcp://a", "tcp://a:0",
        "tcp://a:65536", "tcp://a:x", "tcp://a:" + "9" * 5000, "http://a:1", "://", "mpi://2", "tcp://a:-1", "inproc://x",
    ),
    "trigger": ("", "maybe", "channels", "channels:", "channels:-1", "channels:x", "channels:" + "9" * 5000, "bound:1"),
    "split": (
        "", "input", "input:", "input:0", "input:1", "output:-1", "grid:2", "grid:2x", "grid:0x2", "grid:2x2x2", "rows:2",
        "input:" + "9" * 5000, "grid:1x1", "input:4096",
    ),
    "straggler": ("", "x", "1x", "x1", "1xnan", "1xinf", "1x0", "1x-1", "1x1e300", "9" * 400 + "x2", "-1x2", "9999x2"),
    "sweep": (
        "", "bandwidth", "bandwidth=", "bandwidth=1..", "bandwidth=2..1", "bandwidth=1..1e300", "depth=1..2", "rate=nan..1",
        "latency=0..1", "latency=1..inf", "bandwidth=1e-320..1", "bandwidth=1.." + "9" * 5000,
    ),
    "rates": (*QUANTITIES, "0", "1Mbit,", ",", "1Mbit,x", ",".join(["1Mbit"] * 17)),
    "executor": ("", "abacus", ":", "torch:", ":cuda", "numba torch", "x" * 300),
    "tiles": ("", "x", "2", "2x", "x3", "0x2", "2x0", "-1x2", "2x3x4", "6x6", "99999x1", "2 x 3", "9" * 5000 + "x1"),
    "pin": ("", "=", "features.0", "x.0=", "=1", "x=-1", "x=y", "x=1.5", "x=" + "9" * 5000, "a\nb=1", "x" * 300 + "=1"),
}  # fmt: skip
"""Names in capitals are made by `prepared`."""


def options() -> Iterator[tuple[str, str, Any, Any]]:
    """(command, parameter, its type, what typer was given) of every option and argument of every command."""
    for command in app.COMMANDS:
        for name, hint in get_type_hints(app.command(command), include_extras=True).items():
            if name != "return":
                yield command, name, hint.__origin__, hint.__metadata__[0]


def spelling(name: str, declared: Any) -> str | None:
    """--option; None for an argument."""
    if type(declared).__name__ == "ArgumentInfo":
        return None
    long = [each for each in declared.param_decls or () if each.startswith("--")]
    return long[0] if long else "--" + name.replace("_", "-")


def bad_values(value: OptionValue) -> list[str]:
    """Those of the kind, and the nearest to its range. Raises KeyError for a kind that stands in no table."""
    return [*dict.fromkeys((*BAD[value.kind], *(beyond(value.number) if value.number else ())))]


def beyond(number: Number) -> Iterator[str]:
    """Just outside of the range, and far outside."""
    if number.whole:
        yield from (str(int(number.least) - 1), str(int(number.most) + 1))
    else:
        yield from (repr(number.least - max(1e-30, abs(number.least) * 1e-3)), repr(number.most * 1.001))
    if not number.endless:
        yield "inf"


def prepared(folder: Path) -> None:
    """Make what `BAD` names: a folder, a pipe, a socket, a file."""
    for name in ("FOLDER", "FOLDER.pt2"):
        (folder / name).mkdir()
    for name in ("PIPE", "PIPE.pt2"):
        os.mkfifo(folder / name)
    with socket.socket(socket.AF_UNIX) as plug:
        plug.bind(str(folder / "SOCKET"))
    (folder / "FILE").write_text("a file")
