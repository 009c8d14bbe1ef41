"""Processes that tests start, and end by their own ids."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MPIRUN = Path(sys.executable).with_name("mpirun")


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **extra}


def mpirun(ranks: int, *program: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a program under this environment's mpirun, without flags, until it ends. Skips where there is none."""
    if not MPIRUN.exists():
        pytest.skip("no mpirun in this environment: pip install 'fogconv[mpi]'")
    return subprocess.run(
        [str(MPIRUN), "-n", str(ranks), sys.executable, *program],
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
        child.communicate(timeout=10)


def wait_until_listening(port: int, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens on port {port} after {timeout_s} s")
