"""Conversion of errors to a sentence on stderr and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from fogconv.errors import DependencyError, FogconvError, visible, with_extra

USAGE_ERRORS = tuple(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""What typer raises for arguments that are wrong."""


@contextmanager
def sentences(command: str) -> Iterator[None]:
    """A FogconvError ends the command with its message and its exit code; anything else is a bug and keeps its traceback."""
    try:
        yield
    except FogconvError as error:
        print(f"{command}: {one_line(error)}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    except BrokenPipeError:
        raise typer.Exit(1) from None


def usage_sentence(error: Exception, program: str) -> str | None:
    """One sentence for what typer finds wrong with the arguments; None for any other error.

    Typer brings a copy of click's errors, or uses click's own, as its version is; both have these attributes.
    """
    if not isinstance(error, USAGE_ERRORS):
        return None
    shown: Any = error
    context, parameter = getattr(shown, "ctx", None), getattr(shown, "param", None)
    where = context.command_path if context is not None else program
    if type(error).__name__ == "NoArgsIsHelpError":
        return str(shown.format_message())  # the help, unless it is printed already
    if parameter is None or type(error).__name__ == "MissingParameter":
        return f"{where}: {one_line(shown.format_message())}"
    return f"{where}: {_option(parameter)} {one_line(shown.message).removeprefix('Value error, ')}"


def one_line(text: object) -> str:
    """A message in one line, and what a terminal would obey made visible."""
    return visible(" ".join(str(text).split()))


def _option(parameter: Any) -> str:
    is_option = parameter.param_type_name == "option"
    return max(parameter.opts, key=len) if is_option else str(parameter.name).upper()


def needs(module: str, extra: str) -> DependencyError:
    """The error for a missing library of an extra."""
    return DependencyError(f"{module} is not installed: {with_extra(extra)}")
