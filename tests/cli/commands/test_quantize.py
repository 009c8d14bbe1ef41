"""`fogconv quantize`, and --precision of other commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli import program

NET = ("squeezenet1_1", "--weights", "random", "--size", "48")


def test_a_quantised_model_is_written_and_runs_on_bytes(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    out = tmp_path / "net.onnx"
    found = program.call("quantize", *NET, "--calibrate", "coffee", "--out", str(out), "--json")
    assert found.exit_code == 0, found.stderr
    said = json.loads(found.stdout)
    assert said["int8_share"] == 1.0 and said["pictures"] == 1 and said["output_db"] > 15
    assert len(said["layers"]) == 26 and all(layer["precision"] == "int8" for layer in said["layers"])
    ran = program.call("run", str(out), "--workers", "0", "--repeat", "1", "--json")
    assert ran.exit_code == 0, ran.stderr
    assert json.loads(ran.stdout)["precision"]["share"] == 1.0


def test_a_table_has_a_line_for_each_layer(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    found = program.call("quantize", *NET, "--calibrate", "coffee", "-o", str(tmp_path / "net.onnx"))
    assert found.exit_code == 0, found.stderr
    lines = found.stdout.splitlines()
    assert lines[0].split() == ["layer", "precision", "own", "dB", "whole", "dB"]
    assert "multiply-adds in int8" in " ".join(lines) and all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("quantize", *NET), "needs pictures"),
        (("quantize", *NET, "--calibrate", "coffee"), "--out"),
        (("quantize", *NET, "--calibrate", "FOLDER", "--out", "x.onnx"), "has no picture"),
        (("quantize", *NET, "--calibrate", "small.npy", "--out", "x.onnx"), "has the shape (3, 8, 8)"),
        (("quantize", *NET, "--calibrate", "nan.npy", "--out", "x.onnx"), "finite"),
        (("run", *NET, "--precision", "int8"), "--calibrate"),
        (("simulate", "squeezenet1_1", "--train", "--precision", "int8"), "training is in fp32"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").mkdir()
    np.save(tmp_path / "small.npy", np.zeros((3, 8, 8), np.float32))
    np.save(tmp_path / "nan.npy", np.full((3, 48, 48), np.nan, np.float32))
    found = program.call(*arguments)
    assert found.exit_code == 2 and sentence in found.stderr and len(found.stderr.splitlines()) == 1, found.stderr


def test_a_plan_says_which_layers_are_in_8_bits() -> None:
    rates = ("--ranks", "2", "--rate", "1GFLOP/s", "--bandwidth", "1Gbit")
    found = program.call("plan", "squeezenet1_1", "--size", "48", "--precision", "int8", *rates)
    assert found.exit_code == 0, found.stderr
    assert "100 % of the multiply-adds" in found.stdout
