"""Every fuzzer (`tests/**/fuzz_*.py`) replays what was found before and looks for more for ten seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzzers import CORPORA, ROOT, fuzzers, run

SECONDS = 10


def without_own_test() -> list[str]:
    """Those that no ``test_fuzz_WHAT.py`` beside them runs."""
    files = {module: ROOT / Path(*module.split(".")) for module in fuzzers()}
    return [module for module, file in files.items() if not file.with_name(f"test_{file.name}.py").exists()]


@pytest.mark.parametrize("module", without_own_test(), ids=lambda module: module.rpartition(".fuzz_")[2])
def test_ten_seconds_of_fuzzing_find_nothing(module: str, tmp_path: Path) -> None:
    outcome = run(module, SECONDS, tmp_path)
    assert not outcome.finding, outcome.finding
    assert outcome.inputs, "nothing was tried"


def test_every_fuzzer_has_its_corpus() -> None:
    assert {module.rpartition(".fuzz_")[2] for module in fuzzers()} == {folder.name for folder in CORPORA.iterdir()}
