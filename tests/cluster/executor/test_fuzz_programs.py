"""What the fuzzer of programs keeps does no harm, and ten seconds of it find nothing new."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.executor.fuzz_programs import FUZZER, INPUTS
from tests.cluster.launch import ROOT, environment

pytestmark = pytest.mark.alone

SECONDS = 10


def test_the_corpus_does_no_harm() -> None:
    inputs = {path.name: path.read_bytes() for path in sorted(INPUTS.iterdir())}
    assert len(inputs) > 50
    FUZZER.replay(inputs)


def test_some_seconds_of_fuzzing_find_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", FUZZER.module, str(tmp_path), str(INPUTS), f"-max_total_time={SECONDS}"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "traits" in done.stderr


def test_a_touch_of_a_guard_page_would_be_seen() -> None:
    """One float behind a buffer of a program, whose arrays lie at the end of their pages."""
    code = (
        "import ctypes\n"
        "from tests.cluster.executor import fuzz_programs as fuzz\n"
        "from tests.cluster.worker.wedges import WEIGHT, KEY, honest\n"
        "fuzz.prepare()\n"
        "fuzz.guarded.at_end = True\n"
        "buffer = fuzz.Executable(honest(), {KEY: WEIGHT})._buffers[1].data\n"
        "ctypes.memset(buffer.ctypes.data, 0, buffer.nbytes)\n"
        "print('inside', flush=True)\n"
        "ctypes.memset(buffer.ctypes.data, 0, buffer.nbytes + 1)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == "inside\n", done.stderr[-2000:]
    assert done.returncode == -signal.SIGSEGV
