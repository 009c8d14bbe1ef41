"""Models of every kind over in-process workers: the figures are there, and right."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from bench import models
from fogconv.errors import ModelError
from fogconv.tasks.detect.boxes import Box, Boxes
from fogconv.zoo.wheels.download import kept_model
from fogconv.zoo.wheels.registry import WHEEL_MODELS


def here(name: str) -> bool:
    try:
        return name not in WHEEL_MODELS or bool(kept_model(WHEEL_MODELS[name]))
    except ModelError:
        return False


QUICK = ("lraspp_mobilenet_v3_large", "ssdlite320_mobilenet_v3_large", "centerface", "ppocr-cls")
PAIRS = [(name, scheme) for name in models.names() for scheme in ("rows", "depth", "auto")]
FIRST = [(name, scheme) for name, scheme in zip(QUICK, ("rows", "depth", "auto", "rows"), strict=True)]
"""Each quick model and each scheme once; `make test-full` has all pairs."""


@pytest.mark.parametrize(
    ("name", "scheme"),
    [pair if pair in FIRST else pytest.param(*pair, marks=pytest.mark.full) for pair in PAIRS],
)
def test_a_model_is_right_in_a_scheme(name: str, scheme: str) -> None:
    if not here(name):
        pytest.skip(f"`fogconv models get {name}` was not run")
    [found] = models.rows([name], [scheme], workers=2)
    assert isinstance(found, models.Row)
    assert found.right, found
    assert found.macs > 1e6
    assert (found.boxes_equal is None) == (found.name not in models.WITH_BOXES)


def test_the_command_prints_one_object(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["models", "--names", "lraspp_mobilenet_v3_large", "--schemes", "auto", "--json"])
    assert models.main() == 0
    [row] = json.loads(capsys.readouterr().out)["models"]
    assert list(row) == ["name", "source", "macs", "on_master_share", "rel_error", "boxes_equal", "float64_ratio"]
    assert row["name"] == "lraspp_mobilenet_v3_large" and row["source"].startswith("random (seed 0)")


def test_boxes_of_nearly_equal_scores_may_change_places_and_nothing_else() -> None:
    first, second = Box(0, 0, 9, 9, 0.5, "a", 1), Box(5, 5, 20, 20, 0.5 + 1e-6, "b", 2)
    assert models.same(Boxes((first, second)), Boxes((second, first)))
    for other in (replace(first, left=3.0), replace(first, index=2), replace(first, score=0.6)):
        assert not models.same(Boxes((first, second)), Boxes((other, second)))
    assert not models.same(Boxes((first,)), Boxes((first, second)))
    assert not models.same(Boxes((first, first)), Boxes((first, second)))


def test_an_output_of_another_shape_or_value_is_an_error() -> None:
    x = np.array([1.0, -2.0], np.float32)
    assert models.difference(x, x) == 0
    assert models.difference(x, x + np.float32(0.5)) == pytest.approx(0.5 / 1.5)
    assert models.difference(x, x[:1]) == np.inf
    assert not models.Row("", "", 1, 0.0, 3e-4, None).right
    assert not models.Row("", "", 1, 0.0, 0.0, False).right
    assert models.Row("", "", 1, 0.0, 3e-4, None, 5.0).right
    assert not models.Row("", "", 1, 0.0, 3e-4, None, 5.1).right
    assert not models.Row("", "", 1, 0.0, 3e-4, False, 1.0).right
