"""What the fuzzer has found so far stays harmless; with atheris installed it looks for more."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from tests.cluster.launch import ROOT, environment
from tests.cluster.protocol.fuzz_codec import CORPUS, one_input, seeds

pytestmark = pytest.mark.alone

SECONDS = 60


def test_the_corpus_is_kept_and_raises_nothing() -> None:
    inputs = [path.read_bytes() for path in sorted(CORPUS.iterdir())]
    assert len(inputs) >= len(seeds())
    for data in inputs:
        one_input(data)


def test_the_seeds_and_their_prefixes_raise_nothing() -> None:
    for data in seeds().values():
        for end in range(len(data) + 1):
            one_input(data[:end])


@pytest.mark.full
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs atheris: pip install atheris")
def test_a_minute_of_coverage_guided_fuzzing_finds_nothing(tmp_path: object) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.cluster.protocol.fuzz_codec",
        str(tmp_path),
        str(CORPUS),
        f"-max_total_time={SECONDS}",
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=SECONDS + 120)
    assert done.returncode == 0, done.stderr[-3000:]
