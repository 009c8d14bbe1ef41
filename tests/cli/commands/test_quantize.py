"""`fogconv quantize`, and --precision of other commands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

import fogconv
from fogconv.hardware.profile import Profile
from fogconv.hardware.topology import Device, Link, Topology
from fogconv.kernels.codegen.isa import host_isa
from fogconv.quantization.plain_form import plain_form
from tests.cli import program
from tests.quantized_net import network, picture


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a small net and pictures for it are."""
    pytest.importorskip("onnx")
    from fogconv.frontend.onnx.write import write

    monkeypatch.chdir(tmp_path)
    write(plain_form(network()), {}, tmp_path / "net.onnx")
    (tmp_path / "pictures").mkdir()
    for seed in range(2):
        np.save(tmp_path / "pictures" / f"{seed}.npy", picture(seed)[0])
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "small.npy", np.zeros((3, 8, 8), np.float32))
    np.save(tmp_path / "nan.npy", np.full((3, 16, 16), np.nan, np.float32))
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "net.onnx").read_bytes()[:1000])
    return tmp_path


def test_a_quantised_model_is_written_and_runs_on_bytes(folder: Path) -> None:
    found = program.call("quantize", "net.onnx", "--calibrate", "pictures", "--out", "q.onnx", "--json")
    assert found.exit_code == 0, found.stderr
    said = json.loads(found.stdout)
    assert said["int8_share"] == 1.0 and said["pictures"] == 2 and said["output_db"] > 15
    assert len(said["layers"]) == 7 and all(layer["precision"] == "int8" for layer in said["layers"])
    ran = program.call("run", "q.onnx", "--image", "pictures/0.npy", "--workers", "0", "--repeat", "1", "--json")
    assert ran.exit_code == 0, ran.stderr
    assert json.loads(ran.stdout)["precision"]["share"] == 1.0


def test_a_file_says_that_its_weights_are_seeded_ones(folder: Path) -> None:
    pictures = ("--calibrate", "coffee", "--size", "48")
    written = program.call("quantize", "squeezenet1_1", "--weights", "random", *pictures, "--out", "seeded.onnx")
    assert written.exit_code == 0, written.stderr
    ran = program.call("run", "seeded.onnx", "--image", "coffee", "--workers", "0", "--repeat", "1", "--json")
    assert ran.exit_code == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said["weights"] == "random (seed 0), as saved in seeded.onnx"
    assert said["top5_note"] == "class scores of random weights, meaningless"


def test_a_table_has_a_line_for_each_layer(folder: Path) -> None:
    found = program.call("quantize", "net.onnx", "--calibrate", "pictures", "-o", "q.onnx")
    assert found.exit_code == 0, found.stderr
    lines = found.stdout.splitlines()
    assert lines[0].split() == ["layer", "precision", "own", "dB", "whole", "dB"]
    assert "multiply-adds in int8" in " ".join(lines) and all(len(line) <= 80 for line in lines)


def test_a_model_in_fp32_runs_in_8_bits_with_pictures(folder: Path) -> None:
    image = ("--image", "pictures/0.npy", "--workers", "0", "--repeat", "1")
    ran = program.call("run", "net.onnx", *image, "--precision", "int8", "--calibrate", "pictures")
    assert ran.exit_code == 0, ran.stderr
    assert "100 % of the multiply-adds" in ran.stdout


@pytest.mark.parametrize("half", ["fp16", "bf16"])
def test_a_model_runs_in_16_bits_without_pictures(half: str, folder: Path) -> None:
    image = ("--image", "pictures/0.npy", "--workers", "0", "--repeat", "1", "--compare")
    ran = program.call("run", "net.onnx", *image, "--precision", half)
    assert ran.exit_code == 0, ran.stderr
    assert re.search(rf"{half}: \d+ layers, 9\d % of the multiply-adds; fp32: 1 layer", ran.stdout)
    assert "difference" in ran.stdout
    said = json.loads(program.call("run", "net.onnx", *image, "--precision", half, "--json").stdout)
    assert said["precision"]["narrow"] == half
    # All but the depthwise one that reads what the first conv makes.
    assert sorted(said["precision"]["layers"].values()).count("fp32") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("quantize", "net.onnx"), "needs pictures"),
        (("quantize", "net.onnx", "--precision", "fp16"), "add --precision fp16 to `fogconv run`"),
        (("quantize", "net.onnx", "--precision", "bf16", "--out", "x.onnx"), "no file is written in bf16"),
        (("quantize", "net.onnx", "--calibrate", "coffee"), "--out"),
        (("quantize", "net.onnx", "--calibrate", "empty", "--out", "x.onnx"), "has no picture"),
        (("quantize", "net.onnx", "--calibrate", "small.npy", "--out", "x.onnx"), "has the shape (3, 8, 8)"),
        (("quantize", "net.onnx", "--calibrate", "nan.npy", "--out", "x.onnx"), "NaN"),
        (("quantize", "net.onnx", "--calibrate", "cut.jpg", "--out", "x.onnx"), "cut.jpg"),
        (("quantize", "cut.onnx", "--calibrate", "pictures", "--out", "x.onnx"), "cut.onnx"),
        (("run", "net.onnx", "--image", "pictures/0.npy", "--precision", "int8"), "--calibrate"),
        (("simulate", "squeezenet1_1", "--train", "--precision", "int8"), "training is in fp32"),
    ],
)
def test_what_is_wrong_is_one_sentence(arguments: tuple[str, ...], sentence: str, folder: Path) -> None:
    found = program.call(*arguments)
    assert found.exit_code == 2 and sentence in found.stderr and len(found.stderr.splitlines()) == 1, found.stderr


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_a_rank_without_the_instruction_is_named_with_what_it_costs(
    precision: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOGCONV_ISA", host_isa().name)  # without dot products, and what comes with them
    options = ("--image", "pictures/0.npy", "--workers", "1", "--repeat", "1", "--no-adapt", "--precision", precision)
    calibrate = ("--calibrate", "pictures") if precision == "int8" else ()
    found = program.call("run", "net.onnx", *options, *calibrate, "--json")
    assert found.exit_code == 0, found.stderr
    wanted = (
        rf"the master and worker 1 have no instruction for {precision}: convolutions take [\d.]+( to [\d.]+)? times as long"
    )
    assert re.match(wanted, json.loads(found.stdout)["precision_note"])


def test_a_plan_and_a_simulation_by_a_profile_name_the_ranks_without_the_instruction(tmp_path: Path) -> None:
    rates = {"default": 1e-9, "int8_default": 2e-9}
    devices = tuple(Device(f"r{rank}", rates, multiplies=() if rank else ("uint8",)) for rank in range(2))
    file = tmp_path / "profile.json"
    file.write_bytes(msgspec.json.encode(Profile.of(Topology(devices, default_link=Link(1e-4, 8e-9)))))
    said = "worker 1 has no instruction for int8: convolutions take 2.00 times as long there as in fp32"
    for command in ("plan", "simulate"):
        options = (command, "squeezenet1_1", "--size", "48", "--profile", str(file))
        found = program.call(*options, "--precision", "int8", "--json")
        assert found.exit_code == 0, found.stderr
        assert json.loads(found.stdout)["precision_note"] == said
        assert said in program.call(*options, "--precision", "int8").stdout
        assert json.loads(program.call(*options, "--json").stdout)["precision_note"] is None
    model = fogconv.plan(
        "squeezenet1_1", Topology(devices, default_link=Link(1e-4, 8e-9)), size=48, precision="int8", weights="random"
    )
    assert model.precision_note == said


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_a_plan_says_which_layers_are_narrow(precision: str) -> None:
    rates = ("--ranks", "2", "--rate", "1GFLOP/s", "--bandwidth", "1Gbit")
    found = program.call("plan", "squeezenet1_1", "--size", "48", "--precision", precision, *rates)
    assert found.exit_code == 0, found.stderr
    assert f"{precision}: " in found.stdout and "100 % of the multiply-adds" in found.stdout
