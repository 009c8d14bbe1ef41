"""`fogconv bench` and `fogconv compare`: a result, and two of them side by side."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from fogconv.benchmark import measurement
from fogconv.benchmark.fixed_set import QUICK
from fogconv.benchmark.record import read_record, write_record
from tests.benchmark.test_comparison import item
from tests.benchmark.test_record import MACHINE, record
from tests.cli import program
from tests.cli.program import PLAIN


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    few = replace(QUICK, nets=("squeezenet1_1",), passes=2, rounds=2, least_runs=2, net_s=0.0)
    monkeypatch.setattr(measurement, "QUICK", few)
    monkeypatch.setattr(measurement, "LOOK_S", 0.01)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.alone
def test_a_result_is_shown_and_written(brief: Path) -> None:
    result = program.call("bench", "--quick")
    assert result.exit_code == 0, result.output
    [written] = brief.glob("bench-*.json")
    assert f"wrote {written.name}" in result.stderr
    assert read_record(written).quick
    for text in ("winograd", "squeezenet1_1", "Measured in"):
        assert text in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


@pytest.mark.alone
def test_json_goes_to_stdout_and_to_no_file(brief: Path) -> None:
    result = program.call("bench", "--quick", "--json")
    assert json.loads(result.stdout)["fogconv_bench"] == 1
    assert not list(brief.glob("*.json"))


@pytest.mark.parametrize("width", [80, 120])
def test_two_results_stand_side_by_side(tmp_path: Path, width: int) -> None:
    first, second = tmp_path / "pi4.json", tmp_path / "pi5.json"
    write_record(record(items=(item(0.2), item(0.1, name="vgg16"), item(1, name="gone"))), first)
    write_record(record(items=(item(0.05), item(0.1, name="vgg16")), other_cores=1.0), second)
    result = program.call("compare", str(first), str(second), environment=PLAIN | {"COLUMNS": str(width)})
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert all(len(line) <= width for line in lines if "/" not in line)
    assert "4.00 B faster" in next(line for line in lines if line.startswith("resnet18"))
    assert "1.00 noise" in next(line for line in lines if line.startswith("vgg16"))
    assert "B is 2.00 times as fast as A" in result.stdout
    assert "Only in A, 1 item: gone" in result.stdout and "Mind: other work kept 1.0 cores" in result.stdout
    found = json.loads(program.call("compare", str(first), str(second), "--json").stdout)
    assert found["mean"] == pytest.approx(2) and found["items"][1]["within_noise"]


def test_a_file_that_is_no_result_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"fogconv_profile": 1}')
    write_record(record(), tmp_path / "a.json")
    for files in (("other.json", "a.json"), ("a.json", "other.json"), ("a.json", "missing.json")):
        result = program.call("compare", *(str(tmp_path / name) for name in files))
        assert result.exit_code == 2 and result.stdout == ""
        assert len(result.stderr.strip().splitlines()) == 1


def test_names_in_a_file_do_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    red = "\x1b[31m[/oops]"
    machine = msgspec.structs.replace(MACHINE, host=red)
    strange = record(cpu=red, machines=(machine, machine), items=(item(1, name=red),), versions={red: red})
    write_record(strange, tmp_path / "a.json")
    write_record(record(items=(item(1, name=red), item(1, name=red + "2"))), tmp_path / "b.json")
    result = program.call("compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output and "oops" in result.stdout
