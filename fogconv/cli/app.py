"""The programs: ``fogconv SUBCOMMAND``, and ``fogconv-run``, ``fogconv-worker``, ``fogconv-speedup`` as short cuts.

Bad input is one sentence on stderr and exit code 2; Ctrl-C is exit code 130; a traceback is a bug.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fogconv.cli.process.interrupt import INTERRUPTED, leave_at_once
from fogconv.errors import FogconvError

if TYPE_CHECKING:
    import typer

COMMANDS = ("run", "worker", "plan", "speedup", "simulate", "calibrate", "status", "keygen", "doctor")
"""Each is a function of that name in the module fogconv.cli.commands.NAME."""


def main() -> None:
    _guarded(_application)


def main_run() -> None:
    _guarded(lambda: _single("run"))


def main_worker() -> None:
    _guarded(lambda: _single("worker"))


def main_speedup() -> None:
    _guarded(lambda: _single("speedup"))


def _application() -> typer.Typer:
    import typer

    application = typer.Typer(
        name="fogconv",
        help="Run one CNN, losslessly, on a cluster of small computers.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    for name in COMMANDS:
        if find_spec(f"fogconv.cli.commands.{name}") is None:
            continue
        application.command(name)(_command(name))
    return application


def _single(name: str) -> typer.Typer:
    import typer

    application = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    application.command()(_command(name))
    return application


def _command(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(import_module(f"fogconv.cli.commands.{name}"), name)
    return found


def _guarded(application: Callable[[], typer.Typer]) -> NoReturn:
    signal.signal(signal.SIGINT, leave_at_once)
    # Late, so that Ctrl-C meets the handler from the start.
    from fogconv.cli.process.mpi_ranks import end_together, hush, is_other_rank

    code = 0
    if is_other_rank():
        hush()
    try:
        application()(standalone_mode=True)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except FogconvError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception:
        traceback.print_exc()
        code = 1
    if code:
        end_together(code)
    if code == INTERRUPTED:
        # The interpreter's shutdown takes seconds after torch, and holds up the thread that watches for that.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
