"""What a start must not import: the help and the package stay quick."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from fogconv.cli.process.collection import USUAL, collect_as_usual, collect_rarely

HEAVY = ("torch", "torchvision", "numba", "numpy", "zmq", "mpi4py", "scipy", "matplotlib")
PLANNING = ("numpy",)
"""The help of one command lists the schemes that the planner has, so that the planner is imported."""


@pytest.mark.parametrize(
    ("start", "allowed"),
    [
        ("import fogconv", ()),
        ("import sys; sys.argv[1:] = ['--help']; from fogconv.cli.app import main; main()", ()),
        ("import sys; sys.argv[1:] = ['run', '--help']; from fogconv.cli.app import main; main()", PLANNING),
    ],
    ids=["import", "help", "run-help"],
)
def test_a_start_imports_nothing_heavy(start: str, allowed: tuple[str, ...]) -> None:
    report = f"import atexit, sys\natexit.register(lambda: print('HEAVY', *[m for m in {HEAVY!r} if m in sys.modules]))\n"
    done = subprocess.run([sys.executable, "-c", report + start], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()[-1].split()[1:]) <= set(allowed)


def test_python_m_fogconv_is_the_program() -> None:
    """Asked of the interpreter itself, which lists what it imports."""
    command = [sys.executable, "-X", "importtime", "-m", "fogconv", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and "calibrate" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & set(HEAVY)
    assert "typer" in imported


def test_collection_is_as_usual_after_the_start() -> None:
    before = gc.get_threshold()
    try:
        collect_rarely()
        assert gc.isenabled() and gc.get_threshold()[0] > 10 * USUAL[0]
        collect_as_usual()
        assert gc.get_threshold() == USUAL
    finally:
        gc.set_threshold(*before)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_an_output_that_can_not_be_written_is_one_sentence(options: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "fogconv", "speedup", "--c", "8", *options]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert done.stderr == "fogconv speedup: the output can't be written: No space left on device\n"


def test_a_reader_that_ends_early_ends_the_program_quietly() -> None:
    command = [sys.executable, "-m", "fogconv", "speedup", "--presets"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None and program.stderr is not None
        program.stdout.close()
        assert program.stderr.read() == ""
        assert program.wait(120) == 1
