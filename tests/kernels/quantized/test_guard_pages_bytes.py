"""No kernel on bytes touches memory outside its arrays, seen by the hardware."""

from __future__ import annotations

import subprocess
import sys


def test_every_kernel_on_bytes_stays_inside_its_arrays() -> None:
    command = [sys.executable, "-m", "tests.kernels.quantized.guarded_bytes"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"ended with {ended.returncode}: {ended.stderr[-2000:]}"
