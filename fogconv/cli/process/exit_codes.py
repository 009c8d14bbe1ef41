"""Conversion of errors to a sentence on stderr and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from fogconv.errors import DependencyError, FogconvError, with_extra


@contextmanager
def sentences(command: str) -> Iterator[None]:
    """A FogconvError ends the command with its message and its exit code; anything else is a bug and keeps its traceback."""
    try:
        yield
    except FogconvError as error:
        print(f"{command}: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    except BrokenPipeError:
        raise typer.Exit(1) from None


def needs(module: str, extra: str) -> DependencyError:
    """The error for a missing library of an extra."""
    return DependencyError(f"{module} is not installed: {with_extra(extra)}")
