"""The programs: ``fogconv SUBCOMMAND``, and ``fogconv-run``, ``fogconv-worker``, ``fogconv-speedup`` as short cuts.

Bad input is one sentence on stderr and exit code 2; Ctrl-C is exit code 130; a traceback is a bug.
"""

from __future__ import annotations

import ast
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fogconv.cli.process.collection import collect_rarely
from fogconv.cli.process.interrupt import INTERRUPTED, leave_at_once
from fogconv.errors import FogconvError

if TYPE_CHECKING:
    import typer

COMMANDS = (
    "run", "worker", "plan", "cuts", "choose", "speedup", "simulate", "calibrate", "quantize", "bench", "compare",
    "status", "keygen", "doctor", "models", "warm",
)  # fmt: skip
"""Commands in the order of ``--help``. Each is the function of that name in the module of that name in
fogconv.cli.commands; its docstring is its help."""

UNWRITABLE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
"""Errors of a stdout that goes nowhere. The first is no error: what reads it has ended, as `head` does."""


def main() -> None:
    _guarded(lambda: application([name for name in COMMANDS if sys.argv[1:2] == [name]]))


def main_run() -> None:
    _guarded(lambda: single("run"))


def main_worker() -> None:
    _guarded(lambda: single("worker"))


def main_speedup() -> None:
    _guarded(lambda: single("speedup"))


def application(names: Sequence[str] = COMMANDS) -> typer.Typer:
    """The program. Commands that are not in ``names`` are not imported and have only their line of help."""
    import typer

    from fogconv.cli.process.help import plain

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
    return plain(whole)


def single(name: str) -> typer.Typer:
    import typer

    from fogconv.cli.process.help import plain

    single = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    single.command()(command(name))
    return plain(single)


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

    if is_other_rank():
        hush()
    called = Path(sys.argv[0])
    code = outcome(program, sys.argv[1:], "fogconv" if called.suffix == ".py" else called.name)
    if code:
        end_together(code)
    if code == INTERRUPTED:
        # After torch the interpreter's shutdown takes seconds, and blocks the thread that watches for Ctrl-C.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def outcome(program: Callable[[], typer.Typer], arguments: Sequence[str], name: str) -> int:
    """Run a program with these arguments, and give its exit code. What is wrong with them is one sentence on stderr."""
    import typer

    from fogconv.cli.process.exit_codes import one_line, usage_sentence

    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal without Unicode, or a name with bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    called = " ".join([name, *(each for each in arguments[:1] if name == "fogconv" and each in COMMANDS)])
    try:
        found = typer.main.get_command(program())(args=list(arguments), prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except FogconvError as error:
        print(f"{called}: {one_line(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        if error.errno not in UNWRITABLE:
            traceback.print_exc()
        elif error.errno != errno.EPIPE:
            print(f"{called}: the output can't be written: {error.strerror}", file=sys.stderr)
        _discard_output()
        return 1
    except Exception as error:
        sentence = usage_sentence(error, name)
        if sentence is None:
            traceback.print_exc()
            return 1
        if sentence:
            print(sentence, file=sys.stderr)
        return 2
    return found if isinstance(found, int) else 0


def _discard_output() -> None:
    """What is left in the buffer of stdout could not be written, and Python would say so once more at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
