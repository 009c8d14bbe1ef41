"""Every fuzzer (`tests/**/fuzz_*.py`) replays what was found before and looks for more for ten seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzzing import CORPORA, fuzzers, run

SECONDS = 10


@pytest.mark.parametrize("module", fuzzers(), ids=lambda module: module.rpartition(".fuzz_")[2])
def test_ten_seconds_of_fuzzing_find_nothing(module: str, tmp_path: Path) -> None:
    outcome = run(module, SECONDS, tmp_path)
    assert not outcome.finding, outcome.finding
    assert outcome.inputs, "nothing was tried"


def test_every_fuzzer_has_its_corpus() -> None:
    assert {module.rpartition(".fuzz_")[2] for module in fuzzers()} == {folder.name for folder in CORPORA.iterdir()}
