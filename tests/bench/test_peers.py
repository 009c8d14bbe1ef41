"""Other runtimes beside fogconv: the same network for all, errors against float64, and ratios of rounds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.peers.__main__ import ratio_to_best
from bench.peers.runtimes import RUNTIMES

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.alone


def test_the_ratio_is_to_the_fastest_other_and_survives_a_slow_round() -> None:
    turns = {"fogconv": [1.0, 9.0, 1.0], "a": [2.0, 18.0, 2.0], "b": [0.8, 7.2, 0.8]}
    assert ratio_to_best(turns) == pytest.approx(1.25)
    assert ratio_to_best({"fogconv": [1.0]}) is None and ratio_to_best({"a": [1.0]}) is None


def test_all_that_is_installed_computes_the_same() -> None:
    command = [sys.executable, "-m", "bench.peers", "--net", "mobilenet_v2", "--rounds", "1", "--json"]
    row = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert set(row["times_ms"]) | set(row["left_out"]) == set(RUNTIMES)
    assert {"fogconv", "torch", "onnxruntime"} <= set(row["times_ms"]), row["left_out"]
    assert max(row["max_rel_error"].values()) < 1e-4
    assert row["ratio_to_best"] > 0


def test_in_8_bits_each_has_its_own_quantiser() -> None:
    command = [sys.executable, "-m", "bench.peers", "--net=mobilenet_v2", "--precision=int8", "--rounds=1", "--json"]
    row = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert row["precision"] == "int8" and set(row["times_ms"]) | set(row["left_out"]) == set(RUNTIMES)
    assert {"fogconv", "onnxruntime"} <= set(row["times_ms"]), row["left_out"]
    assert {"ncnn", "mnn", "litert", "torch"} <= set(row["left_out"])
    assert all(1e-4 < error < 1 for error in row["max_rel_error"].values()), "8 bits are seen in the answer"


def test_an_unknown_network_is_a_sentence() -> None:
    command = [sys.executable, "-m", "bench.peers", "--net", "nonsense"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("bench.peers: there is no model called nonsense")
