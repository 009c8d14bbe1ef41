"""What the fuzzer of conversations keeps does no harm, and ten seconds of it find nothing new."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.launch import ROOT, environment
from tests.cluster.worker.fuzz_states import FUZZER, INPUTS

pytestmark = pytest.mark.alone

SECONDS = 10


def test_the_corpus_does_no_harm() -> None:
    inputs = {path.name: path.read_bytes() for path in sorted(INPUTS.iterdir())}
    assert len(inputs) > 20
    FUZZER.replay(inputs)


def test_some_seconds_of_fuzzing_find_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", FUZZER.module, str(tmp_path), str(INPUTS), f"-max_total_time={SECONDS}"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "traits" in done.stderr
