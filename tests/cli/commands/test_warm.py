"""`fogconv warm`: a later run exports, measures and compiles nothing; two that warm one cache at once do no harm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import program

pytestmark = pytest.mark.alone

NET = ("squeezenet1_1", "--weights", "random", "--size", "64", "--workers", "1", "--json")


def contents(folder: Path) -> dict[str, bytes]:
    """The caches' files; those that a run may write again, with what it learns, are left out."""
    kept = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "calibration"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def command(folder: Path, name: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "FOGCONV_CACHE_DIR": str(folder)}
    call = [sys.executable, "-m", "fogconv", name, *NET, *arguments]
    return subprocess.Popen(call, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcome(process: subprocess.Popen[str]) -> dict[str, object]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    found: dict[str, object] = json.loads(out)
    return found


def test_after_two_that_warm_one_cache_at_once_a_run_finds_everything(tmp_path: Path) -> None:
    both = [command(tmp_path, "warm") for _ in range(2)]
    for process in both:
        found = outcome(process)
        assert found["model"] == "squeezenet1_1" and found["ranks"] == 2
    before = contents(tmp_path)
    assert any(name.endswith(".nbc") for name in before) and any(name.endswith(".obj") for name in before)
    assert len([name for name in before if name.endswith(".graph")]) == 1
    assert not any(Path(name).name.startswith("writing-") for name in before), "nothing half written stays"
    result = outcome(command(tmp_path, "run", "--repeat", "1", "--compare"))
    assert isinstance(result["max_abs_error"], float) and result["max_abs_error"] < 1e-3
    rates = result["rates"]
    assert isinstance(rates, list) and all(each["origin"] == "remembered" for each in rates)
    assert contents(tmp_path) == before, "nothing was compiled or exported again"


def test_it_says_what_is_ready() -> None:
    result = program.call("warm", *NET[:-1])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("squeezenet1_1 is ready on 2 ranks by the scheme auto, after ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("squeezenet9",), "did you mean"),
        (("squeezenet1_1", "--measure", "--profile", "nowhere.json"), "nowhere.json"),
        (("squeezenet1_1", "--weights", "random", "--cluster", "tcp://"), "tcp://"),
    ],
)
def test_bad_input_is_a_sentence(arguments: tuple[str, ...], says: str) -> None:
    result = program.call("warm", *arguments)
    assert result.exit_code == 2
    assert says in result.stderr and "Traceback" not in result.output
