"""The programs in this process, by the entry that they have: arguments in; exit code, stdout and stderr out."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from unittest.mock import patch

import typer

from fogconv.cli import app

PLAIN = {"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def call(command: str, *arguments: str, environment: Mapping[str, str] = PLAIN) -> Outcome:
    """``fogconv COMMAND ARGUMENTS``."""
    with patch.dict("os.environ", environment), _captured() as (out, err):
        code = app.outcome(lambda: _program(command), arguments, f"fogconv {command}")
        sys.stdout.flush()
        sys.stderr.flush()
        return Outcome(code, out.getvalue().decode(), err.getvalue().decode())


@cache
def _program(command: str) -> typer.Typer:
    return app.single(command)


@contextmanager
def _captured() -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
    """As a process has them: what can't be encoded fails on stdout, and is escaped on stderr."""
    out, err = io.BytesIO(), io.BytesIO()
    with (
        patch("sys.stdout", io.TextIOWrapper(out, "utf-8", write_through=True)),
        patch("sys.stderr", io.TextIOWrapper(err, "utf-8", errors="backslashreplace", write_through=True)),
    ):
        yield out, err
