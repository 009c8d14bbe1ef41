"""No kernel touches memory outside its arrays, seen by the hardware."""

from __future__ import annotations

import signal
import subprocess
import sys

COMMAND = [sys.executable, "-m", "tests.kernels.guarded"]


def test_every_kernel_stays_inside_its_arrays() -> None:
    ended = subprocess.run(COMMAND, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"ended with {ended.returncode}: {ended.stderr[-2000:]}"


def test_one_byte_too_far_would_be_seen() -> None:
    assert subprocess.run([*COMMAND, "--trespass"], check=False).returncode == -signal.SIGSEGV
