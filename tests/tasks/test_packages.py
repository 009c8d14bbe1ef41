"""Boxes, regions and texts are those of the packages that the models come from.

What the packages find is recorded in expected.json. `FOGCONV_PACKAGES_PYTHON`, the Python of an environment with the
packages (see packages_program.py), records it again: python -m tests.tasks.test_packages > tests/tasks/expected.json. The
tests need the models (`fogconv models get`), and run them in ONNX Runtime alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("pyclipper")

from fogconv.cli.pictures import input_size, inputs, opened, text_reader
from fogconv.errors import ModelError
from fogconv.frontend.network import open_network
from fogconv.tasks.detect.boxes import Boxes
from fogconv.tasks.draw import Finding
from fogconv.tasks.text.regions import Regions
from fogconv.zoo.model_request import ModelRequest
from fogconv.zoo.preprocessing import _bundled
from fogconv.zoo.wheels.download import kept_model
from fogconv.zoo.wheels.registry import wheel_model

PYTHON = os.environ.get("FOGCONV_PACKAGES_PYTHON", "")
RECORDED = Path(__file__).with_name("expected.json")
OWN = ("page", "astronaut")
SCIKIT_IMAGES = ("coins", "text", "motorcycle_left", "coffee")
PICTURES = [*OWN, *SCIKIT_IMAGES]
PIXEL = 1
"""The most pixels that an edge may be away: the picture is resized by other code, whose last bit may differ."""


def found_by_packages(names: list[str], python: str) -> dict[str, Any]:
    paths = {str(_bundled(name)): name for name in names}
    program = Path(__file__).with_name("packages_program.py")
    done = subprocess.run([python, str(program), *paths], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return {paths[path]: found for path, found in json.loads(done.stdout.splitlines()[-1]).items()}


@cache
def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORDED.read_text())
    return found


def found_here(model: str, picture: str) -> Finding:
    """What fogconv finds, with the model in ONNX Runtime alone."""
    try:
        kept_model(wheel_model(model))
        given = opened([picture])
    except ModelError as error:
        pytest.skip(str(error))
    network = open_network(ModelRequest(model, size=input_size(model, given, None)))
    picture_of = network.graph.picture
    prepared = inputs(network.card, given, (1, picture_of.channels, picture_of.height, picture_of.width))
    outputs = network.alone().run([prepared.x])
    names = [port.name for port in network.graph.outputs]
    (found,) = prepared.findings(network.card, dict(zip(names, outputs, strict=True)))
    return found


def check_regions(found: Finding, wanted: list[Any]) -> None:
    assert isinstance(found, Regions)
    assert [len(region.corners) for region in found.regions] == [4] * len(wanted)
    corners = np.array([region.corners for region in found.regions]).reshape(-1, 4, 2)
    assert np.abs(corners - np.array(wanted).reshape(-1, 4, 2)).max(initial=0) <= PIXEL


def check_faces(found: Finding, wanted: list[Any]) -> None:
    assert isinstance(found, Boxes)
    wanted = sorted(wanted, key=lambda face: -face["score"])
    assert len(found.boxes) == len(wanted)
    for box, face in zip(found.boxes, wanted, strict=True):
        assert (box.left, box.top, box.right, box.bottom) == pytest.approx(face["box"], abs=0.05)
        assert box.score == pytest.approx(face["score"], abs=1e-3)
        assert np.array(box.points) == pytest.approx(np.array(face["points"]), abs=0.05)


def check_objects(found: Finding, wanted: list[Any]) -> None:
    """In any order: scores that are nearly equal may change places."""
    assert isinstance(found, Boxes)
    ours = sorted([int(box.left), int(box.top), int(box.right), int(box.bottom)] for box in found.boxes)
    assert len(ours) == len(wanted)
    assert np.abs(np.array(ours).reshape(-1, 4) - np.array(sorted(wanted)).reshape(-1, 4)).max(initial=0) <= PIXEL


CHECKS = {"ppocr-det": check_regions, "centerface": check_faces, "yolox-ddddocr": check_objects}


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("model", CHECKS)
def test_what_is_found_is_what_was_recorded(model: str, picture: str) -> None:
    CHECKS[model](found_here(model, picture), recorded()[picture][model])


def test_texts_are_what_was_recorded() -> None:
    found = found_here("ppocr-det", "page")
    try:
        reader = text_reader()
    except ModelError as error:
        pytest.skip(str(error))
    (given,) = opened(["page"])
    assert isinstance(found, Regions) and given.picture is not None
    read = reader.read(given.picture, found).regions
    assert [region.text for region in read] == [text for _, text in recorded()["page"]["texts"]]
    assert "segmentation" in str(read[0].text)


@pytest.mark.full
@pytest.mark.skipif(not PYTHON, reason="FOGCONV_PACKAGES_PYTHON names no environment with the packages")
def test_the_records_are_what_the_packages_find() -> None:
    found = found_by_packages(PICTURES, PYTHON)
    for picture in PICTURES:
        wanted = recorded()[picture]
        assert found[picture]["ppocr-det"] == wanted["ppocr-det"]
        assert found[picture]["texts"] == wanted["texts"]
        assert found[picture]["yolox-ddddocr"] == wanted["yolox-ddddocr"]
        for face, other in zip(found[picture]["centerface"], wanted["centerface"], strict=True):
            assert face["box"] == pytest.approx(other["box"], abs=0.01)


if __name__ == "__main__":
    json.dump(found_by_packages(PICTURES, PYTHON), sys.stdout)
    print()
