"""Every distinct conv beside other runtimes: which there are, models of one of them, what is kept, the worst."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench.peers import conv_models, model_files
from bench.peers.conv_models import Bank, Case, distinct
from bench.peers.convs import FEW, chosen, each_conv, many, ratio_to_best, rows, worst
from bench.peers.runtimes import RUNTIMES
from fogconv.errors import InputError
from fogconv.ir.geometry import ConvSpec

ROOT = Path(__file__).resolve().parents[2]

MANY = 6

POINTWISE = Case(ConvSpec(5, 20, 9, 8, (1, 1)), "relu6")
STRIDED = Case(ConvSpec(16, 24, 11, 9, (3, 3), (2, 2), (0, 1, 0, 1)), None)
DEPTHWISE = Case(ConvSpec(32, 32, 7, 7, (3, 3), (1, 1), (1, 1, 1, 1), groups=32), "relu")
FIRST = Case(ConvSpec(3, 8, 12, 12, (3, 3), (2, 2), (1, 1, 1, 1)), "relu")


def test_the_convs_of_a_net_with_their_activations() -> None:
    found = distinct("mobilenet_v2")
    assert sum(found.values()) == 52
    labels = [case.label for case in found]
    assert len(set(labels)) == len(labels)
    assert "24x56x56-144k1x1s1+relu6" in labels and "144x56x56-24k1x1s1" in labels
    with pytest.raises(InputError, match="nonsense"):
        distinct("nonsense")


def test_a_conv_of_two_nets_is_compared_once() -> None:
    both = chosen(["mobilenet_v2", "efficientnet_lite0"], "", 1)
    assert len(both) < len(distinct("mobilenet_v2")) + len(distinct("efficientnet_lite0"))
    shared = next(case for case, nets in both.items() if len(nets) == 2)
    assert both[shared] == {net: distinct(net)[shared] for net in both[shared]}
    strided = [case for case in distinct("mobilenet_v2") if "k3x3s2" in case.label]
    assert len(strided) > 2 and list(chosen(["mobilenet_v2"], "k3x3s2", 2)) == strided[::2]


def test_of_small_convs_there_are_more() -> None:
    found = [many(case) for case in distinct("mobilenet_v2")]
    assert max(found) > min(found) == FEW + 4 and not any(number % FEW for number in found)


@pytest.mark.parametrize("case", [POINTWISE, STRIDED, DEPTHWISE, FIRST], ids=lambda case: case.label)
def test_both_models_give_pixels_of_such_convs(case: Case) -> None:
    """Their answers are the first pixels of the conv as torch's functions compute it; every weight counts."""
    for convs in (FEW, MANY):
        bank = Bank(case, convs, MANY).double()
        x = torch.randn(bank.picture, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        given, spec = bank.entry(x), case.spec
        assert given.shape == spec.input_shape
        top, bottom, left, right = spec.padding
        padded = nn.functional.pad(given, (left, right, top, bottom))
        found = bank(x).reshape(MANY, spec.out_channels)
        for i in range(MANY):
            conv = bank.convs[i // (MANY // convs)]
            whole = nn.functional.conv2d(padded, conv.weight, conv.bias, spec.stride, groups=spec.groups)
            assert whole.shape == spec.output_shape
            if case.activation:
                whole = whole.clamp(0, 6 if case.activation == "relu6" else None)
            assert torch.allclose(found[i], whole[0, :, 0, 0])
    assert len({tuple(conv.weight.flatten().tolist()) for conv in bank.convs}) == MANY


@pytest.mark.parametrize("case", [POINTWISE, STRIDED, DEPTHWISE, FIRST], ids=lambda case: case.label)
def test_the_files_give_the_answer_beside_them(case: Case, tmp_path: Path) -> None:
    assert conv_models.write(case, FEW, MANY, tmp_path / "m", set()) == {}
    x, answer = (np.load(tmp_path / "m" / file) for file in (model_files.INPUT, model_files.ANSWER))
    found = torch.jit.load(str(tmp_path / "m" / model_files.TORCHSCRIPT))(torch.from_numpy(x)).numpy()
    assert np.abs(found - answer).max() <= 1e-5 * np.abs(answer).max()


@pytest.mark.skipif(importlib.util.find_spec("ncnn") is None, reason="ncnn is not installed")
@pytest.mark.parametrize("case", [POINTWISE, STRIDED, DEPTHWISE, FIRST], ids=lambda case: case.label)
def test_the_file_for_ncnn_gives_the_answer_too(case: Case, tmp_path: Path) -> None:
    assert conv_models.write(case, MANY, MANY, tmp_path / "m", {model_files.NCNN}) == {}
    x, answer = (np.load(tmp_path / "m" / file) for file in (model_files.INPUT, model_files.ANSWER))
    found = RUNTIMES["ncnn"].open(tmp_path / "m" / model_files.NCNN, 1)(x)
    assert np.abs(found.reshape(answer.shape) - answer).max() <= 1e-5 * np.abs(answer).max()


def test_the_difference_of_two_models_is_the_time_of_their_convs() -> None:
    assert each_conv({FEW: 5.0 + 2, 10: 5.0 + 10}) == pytest.approx(1.0)
    assert ratio_to_best({"fogconv": 1.0, "a": 2.0, "b": 0.8}) == pytest.approx(1.25)
    assert ratio_to_best({"fogconv": 1.0}) is None and ratio_to_best({"a": 1.0}) is None


def test_the_worst_is_the_one_with_the_largest_ratio() -> None:
    found = [{"conv": "x", "ratio_to_best": 0.9}, {"conv": "y", "ratio_to_best": None}, {"conv": "z", "ratio_to_best": 1.1}]
    assert worst(found) == found[2] and worst(found[1:2]) is None


def test_kept_rows_are_not_measured_again(tmp_path: Path) -> None:
    kept = tmp_path / "rows"
    kept.write_text(json.dumps({"conv": POINTWISE.label, "ratio_to_best": 0.5}) + "\n")
    assert list(rows([POINTWISE], ["fogconv"], 1, kept)) == [{"conv": POINTWISE.label, "ratio_to_best": 0.5}]


@pytest.mark.alone
def test_a_conv_in_fogconv_and_torch(tmp_path: Path) -> None:
    kept = tmp_path / "rows"
    # fmt: off
    command = [
        sys.executable, "-m", "bench.peers", "--convs", "--net=mobilenet_v2", "--only=960x7x7-160k", "--rounds=1",
        "--runtimes", "fogconv", "torch", f"--keep={kept}", "--json",
    ]
    # fmt: on
    found = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    (row,) = found["convs"]
    assert row["conv"] == "960x7x7-160k1x1s1" and row["nets"] == {"mobilenet_v2": 2}
    assert not row["left_out"] and set(row["times_us"]) == {"fogconv", "torch"} and max(row["max_rel_error"].values()) < 1e-4
    assert found["worst"]["conv"] == row["conv"] == json.loads(kept.read_text())["conv"]
