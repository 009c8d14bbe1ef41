"""The programs: ``fogconv SUBCOMMAND``, and ``fogconv-run``, ``fogconv-worker``, ``fogconv-speedup`` as short cuts.

Bad input is one sentence on stderr and exit code 2; Ctrl-C is exit code 130; a traceback is a bug.
"""

from __future__ import annotations

import ast
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fogconv.cli.process.collection import collect_rarely
from fogconv.cli.process.interrupt import INTERRUPTED, leave_at_once
from fogconv.errors import FogconvError

if TYPE_CHECKING:
    import typer

COMMANDS = ("run", "worker", "plan", "speedup", "simulate", "calibrate", "status", "keygen", "doctor")
"""Commands in the order of ``--help``. Each is the function of that name in the module of that name in
fogconv.cli.commands; its docstring is its help."""


def main() -> None:
    _guarded(lambda: application([name for name in COMMANDS if sys.argv[1:2] == [name]]))


def main_run() -> None:
    _guarded(lambda: _single("run"))


def main_worker() -> None:
    _guarded(lambda: _single("worker"))


def main_speedup() -> None:
    _guarded(lambda: _single("speedup"))


def application(names: Sequence[str] = COMMANDS) -> typer.Typer:
    """The program. Commands that are not in ``names`` are not imported and have only their line of help."""
    import typer

    whole = typer.Typer(
        name="fogconv",
        help="Run one CNN, losslessly, on a cluster of small computers.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    whole.callback()(lambda: None)  # even a single command is called by its name
    for name in COMMANDS:
        if name in names:
            whole.command(name)(command(name))
        else:
            whole.command(name, help=_help(name))(lambda: None)
    return whole


def _single(name: str) -> typer.Typer:
    import typer

    single = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    single.command()(command(name))
    return single


def command(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(import_module(f"fogconv.cli.commands.{name}"), name)
    return found


def _help(name: str) -> str:
    """The docstring of a command, read without importing it, because that may import numpy."""
    source = Path(__file__).with_name("commands").joinpath(f"{name}.py").read_text(encoding="utf-8")
    (function,) = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name)
    return ast.get_docstring(function) or ""


def _guarded(program: Callable[[], typer.Typer]) -> NoReturn:
    signal.signal(signal.SIGINT, leave_at_once)
    collect_rarely()
    # Imported late, so that the handler of Ctrl-C is installed first.
    from fogconv.cli.process.mpi_ranks import end_together, hush, is_other_rank

    code = 0
    if is_other_rank():
        hush()
    try:
        program()(standalone_mode=True)
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
        # After torch the interpreter's shutdown takes seconds, and blocks the thread that watches for Ctrl-C.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
