"""The programs: ``fogconv SUBCOMMAND``, and ``fogconv-run``, ``fogconv-worker``, ``fogconv-speedup`` as short cuts.

Bad input is one sentence on stderr and exit code 2; Ctrl-C is exit code 130; a traceback is a bug.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import typer

from fogconv.errors import FogconvError

COMMANDS = ("run", "worker", "plan", "speedup", "simulate", "calibrate", "status", "keygen", "doctor")
"""Each is a function of that name in the module fogconv.cli.NAME."""


def main() -> None:
    _guarded(_application())


def main_run() -> None:
    _guarded(_single("run"))


def main_worker() -> None:
    _guarded(_single("worker"))


def main_speedup() -> None:
    _guarded(_single("speedup"))


def _application() -> typer.Typer:
    application = typer.Typer(
        name="fogconv",
        help="Run one CNN, losslessly, on a cluster of small computers.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    for name in COMMANDS:
        if find_spec(f"fogconv.cli.{name}") is None:
            continue
        application.command(name)(_command(name))
    return application


def _single(name: str) -> typer.Typer:
    application = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    application.command()(_command(name))
    return application


def _command(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(import_module(f"fogconv.cli.{name}"), name)
    return found


def _guarded(application: typer.Typer) -> None:
    try:
        application(standalone_mode=True)
    except FogconvError as error:
        print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)  # noqa: PTH119
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
