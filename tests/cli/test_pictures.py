"""`fogconv run` on pictures and tensors: what is found is printed, in JSON, and drawn. The models are a conv each."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("pyclipper")
import onnx
from onnx import TensorProto, helper, numpy_helper

from fogconv.errors import InputError, ModelError
from tests.cli import program

pytestmark = pytest.mark.alone

QUICK = ("--workers", "0", "--repeat", "1", "--mean", "0,0,0", "--std", "1,1,1")
SIDES = (64, 96)


def conv_model(path: Path, weights: np.ndarray, bias: np.ndarray, *, sigmoid: bool = False, outputs: int = 1) -> str:
    """A 1×1 conv of the colours, as an ONNX file for pictures of SIDES."""
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"])]
    names = ["y"]
    if sigmoid:
        nodes.append(helper.make_node("Sigmoid", ["y"], ["p"]))
        names = ["p"]
    if outputs == 2:
        nodes.append(helper.make_node("Relu", ["y"], ["z"]))
        names = ["y", "z"]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, *SIDES))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, len(weights), *SIDES)) for name in names],
        [
            numpy_helper.from_array(weights.astype(np.float32).reshape(-1, 3, 1, 1), "w"),
            numpy_helper.from_array(bias.astype(np.float32), "b"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return str(path)


@pytest.fixture
def colours(tmp_path: Path) -> str:
    """Scores of three classes per pixel: dark, red, blue."""
    return conv_model(tmp_path / "colours.onnx", np.array([(0, 0, 0), (9, 0, -9), (-9, 0, 9)]), np.array([1, 0, 0]))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """The left half is red, in the right half there is a blue corner."""
    canvas = Image.new("RGB", (192, 128), "black")
    canvas.paste((255, 0, 0), (0, 0, 96, 128))
    canvas.paste((0, 0, 255), (144, 64, 192, 128))
    canvas.save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def found(*arguments: Any) -> dict[str, Any]:
    done = program.call("run", *map(str, arguments), "--json")
    assert done.exit_code == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_a_mask_is_printed_written_and_drawn(colours: str, picture: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.write_text("dark\nred\nblue\n")
    options = ("--image", str(picture), "--task", "segment", "--labels", str(labels), *QUICK)
    answer = found(colours, *options, "--draw", tmp_path / "out.png")
    assert answer["task"] == "segment" and answer["top5"] == []
    mask = answer["results"][0]["mask"]
    assert (mask["height"], mask["width"]) == (128, 192)
    shares = {each["label"]: each["share"] for each in mask["segments"]}
    assert shares == pytest.approx({"red": 0.5, "dark": 0.375, "blue": 0.125}, abs=0.02)
    with Image.open(tmp_path / "out.png") as drawn:
        assert drawn.size == (192, 128) and drawn.getpixel((20, 20)) != (255, 0, 0)
        assert drawn.getpixel((120, 20)) == (0, 0, 0)
    shown = program.call("run", colours, *options).stdout
    assert "red" in shown and "50.0%" in shown


def test_regions_of_text_stand_in_the_picture(tmp_path: Path) -> None:
    model = conv_model(tmp_path / "dark.onnx", np.array([(-10, -10, -10)]), np.array([10]), sigmoid=True)
    canvas = Image.new("RGB", (192, 128), "white")
    canvas.paste("black", (40, 40, 140, 60))
    canvas.save(tmp_path / "bar.png")
    answer = found(model, "--image", tmp_path / "bar.png", "--task", "text", *QUICK, "--draw", tmp_path / "out.jpg")
    (region,) = answer["results"][0]["regions"]
    (left, top), _, (right, bottom), _ = region["corners"]
    assert left < 40 and top < 40 and right > 140 and bottom > 60 and right - left < 160
    assert Image.open(tmp_path / "out.jpg").size == (192, 128)


def test_what_has_no_known_meaning_stays_raw(tmp_path: Path, picture: Path) -> None:
    model = conv_model(tmp_path / "two.onnx", np.array([(1, 0, 0)]), np.array([0]), outputs=2)
    answer = found(model, "--image", picture, *QUICK)
    assert answer["task"] == "raw"
    assert [each["name"] for each in answer["results"][0]["outputs"]] == ["y", "z"]
    assert answer["results"][0]["outputs"][0]["shape"] == [1, *SIDES]
    done = program.call("run", model, "--image", str(picture), "--draw", str(tmp_path / "out.png"), *QUICK)
    assert done.exit_code == 2 and "raw outputs can't be drawn" in done.stderr


def test_a_tensor_is_the_input(colours: str, tmp_path: Path) -> None:
    x = np.zeros((3, *SIDES), np.float64)
    x[0, :, :48] = 1
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "batch.npy", x[None].astype(np.float16))
    for file in ("x.npy", "batch.npy"):
        answer = found(colours, "--image", tmp_path / file, "--task", "segment", *QUICK)
        assert answer["results"][0]["mask"]["segments"][0]["pixels"] == 48 * 64
    np.save(tmp_path / "other.npy", x[:, :32])
    done = program.call("run", colours, "--image", str(tmp_path / "other.npy"), *QUICK)
    assert done.exit_code == 2 and "not 32×96" in done.stderr


@pytest.mark.parametrize("kind", ["png", "npy"])
def test_standard_input_is_a_picture_or_a_tensor(
    kind: str, colours: str, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = picture.read_bytes()
    if kind == "npy":
        buffer = io.BytesIO()
        np.save(buffer, np.ones((3, *SIDES), np.float32))
        content = buffer.getvalue()
    stdin = SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stdin)
    answer = found(colours, "--image", "-", "--task", "segment", *QUICK)
    assert len(answer["results"][0]["mask"]["segments"]) == (3 if kind == "png" else 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--task", "detect"), "are of no detector that fogconv knows"),
        (("--task", "classify", "--draw", "nowhere/out.png"), "no folder"),
        (("--draw", "out.tiff"), "ends in .png or .jpg"),
        (("--task", "segment", "--image", "page", "--draw", "out.png"), "--draw takes one --image"),
        (("--read",), "--read is for regions of text"),
        (("--task", "guess"), "guess"),
        (("--image", "-", "--image", "-"), "can be given once"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    arguments: tuple[str, ...], sentence: str, colours: str, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(picture.parent)
    own = () if "-" in arguments else ("--image", str(picture))
    done = program.call("run", colours, *own, *arguments, *QUICK)
    assert done.exit_code == 2, done.stderr
    assert sentence in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_terminal_gives_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    from fogconv.cli.pictures import opened

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    with pytest.raises(ModelError, match="standard input is a terminal"):
        opened(["-"])
    with pytest.raises(InputError, match="given once"):
        opened(["-", "-"])
