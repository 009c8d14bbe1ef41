"""`fogconv calibrate --fusion`: what test cases found, as a table, in JSON and in the profile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fogconv.calibration.fusion import runtimes
from fogconv.calibration.fusion.cases import Case, Findings, Trial
from fogconv.hardware.latency.kernels import by_kernels
from fogconv.hardware.profile import read_profile
from tests.cli import program

pytestmark = pytest.mark.alone

FOUND = Findings(
    "onnxruntime",
    (Case("conv", "relu", 1e-4, 2e-5, 1e-4), Case("conv", "maxpool", 1e-4, 4e-5, 1.4e-4)),
    (Trial(("conv", "relu", "maxpool"), 1.45e-4, 1.4e-4, 1.6e-4),),
)


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The test is of the command; the fusion package's own tests run real cases."""
    monkeypatch.setattr(runtimes, "found_here", lambda: (FOUND,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("missing", [(), ("onnx", "onnxruntime")])
def test_the_table_says_which_are_one_kernel(missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "missing", lambda: missing)
    result = program.call("calibrate", "--quick", "--fusion")
    assert result.exit_code == 0, result.output
    rows = [line for line in result.stdout.splitlines() if line.startswith("conv ") and "%" in line]
    assert [row.rstrip().endswith("yes") for row in rows] == [True, False]
    text = " ".join(result.stdout.split())
    assert "conv relu maxpool: 145 µs measured, 140 µs by kernels, 160 µs by operators alone" in text
    assert ("onnx and onnxruntime not installed" in text) == bool(missing)
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_the_profile_keeps_the_rules_for_prices_by_kernels(tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    result = program.call("calibrate", "--quick", "--fusion", "--json", "--out", str(out))
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)["fusion"]["onnxruntime"]
    assert [case["fuses"] for case in told["cases"]] == [True, False]
    profile = read_profile(out)
    assert profile.rules("onnxruntime") == {("conv", "relu")} and profile.rules("another") == frozenset()
    assert by_kernels(["conv", "relu", "maxpool"], [5.0, 1.0, 2.0], profile.rules("onnxruntime")) == 7.0


def test_runtimes_that_are_installed_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "NEEDED", ("onnx", "no_such_module"))
    assert runtimes.missing() == ("no_such_module",)
    assert [each.name for each in runtimes.runtimes()] == ["fogconv"]
