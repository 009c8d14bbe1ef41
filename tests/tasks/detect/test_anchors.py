"""The boxes of SSD, RetinaNet and FCOS, held to torchvision's own code on the same maps.

torchvision's suppression needs compiled operators, which may not load beside a CPU torch: it is replaced by the definition.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from fogconv.tasks.detect.anchors import anchors, detections
from fogconv.zoo.detection import SPECS, DetectionSpec
from fogconv.zoo.fitting import Placement
from fogconv.zoo.models import torchvision_models
from tests.tasks.detect.test_boxes import by_definition

CELLS = {  # of an input of SIZE
    "ssd300_vgg16": [(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1)],
    "ssdlite320_mobilenet_v3_large": [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)],
    "retinanet_resnet50_fpn": [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)],
    "fcos_resnet50_fpn": [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)],
}
SIZE = {"ssd300_vgg16": (300, 300), "ssdlite320_mobilenet_v3_large": (320, 320)}
USUAL = (128, 192)


def batched(boxes: torch.Tensor, scores: torch.Tensor, classes: torch.Tensor, threshold: float) -> torch.Tensor:
    kept = [
        of[by_definition(boxes[of].numpy(), scores[of].numpy(), threshold, 0.0)]
        for of in (torch.nonzero(classes == each).ravel() for each in classes.unique())
    ]
    found = torch.cat([*kept, torch.empty(0, dtype=torch.int64)])
    return found[torch.argsort(-scores[found], stable=True)]


@pytest.fixture(scope="module", params=sorted(SPECS))
def both(request: pytest.FixtureRequest) -> Iterator[tuple[str, DetectionSpec, Any]]:
    detection = torchvision_models().detection
    boxes = detection.ssd.box_ops
    before = boxes.batched_nms
    boxes.batched_nms = batched
    yield request.param, SPECS[request.param], getattr(detection, request.param)(weights=None, weights_backbone=None).eval()
    boxes.batched_nms = before


def maps_of(name: str, spec: DetectionSpec) -> dict[str, np.ndarray]:
    """Seeded maps, with some scores above the threshold."""
    rng = np.random.default_rng(5)
    found: dict[str, np.ndarray] = {}
    for level, (cells, each) in enumerate(zip(CELLS[name], spec.levels, strict=True)):
        per_cell = len(each.boxes)
        low = 0.0 if spec.score == "softmax" else -6.0
        found[f"cls_logits.{level}"] = rng.normal(low, 2, (1, per_cell * spec.classes, *cells)).astype(np.float32)
        sides = rng.normal(0, 0.5, (1, per_cell * 4, *cells)).astype(np.float32)
        found[f"bbox_regression.{level}"] = np.abs(sides) if spec.coder == "distances" else sides
        if spec.score == "centered":
            found[f"bbox_ctrness.{level}"] = rng.normal(1, 1, (1, per_cell, *cells)).astype(np.float32)
    return found


def rows(values: np.ndarray, last: int) -> torch.Tensor:
    """As torchvision's heads order them."""
    x = torch.from_numpy(values)
    n, _, height, width = x.shape
    return x.view(n, -1, last, height, width).permute(0, 3, 4, 1, 2).reshape(n, -1, last)


def torchvisions(name: str, spec: DetectionSpec, model: Any, maps: dict[str, np.ndarray], inside: tuple[int, int]) -> Any:
    levels = range(len(spec.levels))
    heads = {"cls_logits": spec.classes, "bbox_regression": 4} | ({"bbox_ctrness": 1} if spec.score == "centered" else {})
    split = {sort: [rows(maps[f"{sort}.{level}"], last) for level in levels] for sort, last in heads.items()}
    size = SIZE.get(name, USUAL)
    around = [torch.from_numpy(anchors(spec.levels[level], CELLS[name][level], size)) for level in levels]
    if name.startswith("ssd"):
        whole = {sort: torch.cat(each, 1) for sort, each in split.items()}
        return model.postprocess_detections(whole, [torch.cat(around)], [inside])[0]
    return model.postprocess_detections(split, [around], [inside])[0]


def test_boxes_are_torchvisions(both: tuple[str, DetectionSpec, Any]) -> None:
    name, spec, model = both
    size = SIZE.get(name, USUAL)
    inside = size if spec.fit == "stretch" else (120, 180)  # a frame remains on the right and below
    placement = Placement(inside, size, 1.0, 1.0)
    maps = maps_of(name, spec)
    with torch.inference_mode():
        wanted = torchvisions(name, spec, model, maps, inside)
    found = detections({key: values[0] for key, values in maps.items()}, spec, placement).boxes
    assert len(found) == len(wanted["scores"]) > 10
    np.testing.assert_allclose([box.score for box in found], wanted["scores"], rtol=1e-4)
    assert [box.index for box in found] == wanted["labels"].tolist()
    edges = [(box.left, box.top, box.right, box.bottom) for box in found]
    np.testing.assert_allclose(edges, wanted["boxes"], rtol=1e-4, atol=2e-3)
    assert all(box.label == spec.labels[box.index] for box in found)
