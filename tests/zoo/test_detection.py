"""The data of the detectors, held to what torchvision's own models have."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
import torch

from fogconv.zoo.detection import COCO, SPECS, AnchorLevel, DetectionSpec
from fogconv.zoo.models import torchvision_models


def anchors(level: AnchorLevel, cells: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    """(cells · anchors, 4) by the words of AnchorLevel."""
    height, width = size
    found = []
    for row in range(cells[0]):
        for column in range(cells[1]):
            points = []
            for index, count, side in ((column, cells[1], width), (row, cells[0], height)):
                stride = level.stride if level.stride is not None else side / count
                if level.stride is None and not level.offset:
                    stride = side // count
                points.append((index + level.offset) * stride)
            scale = (width, height) if level.relative else (1, 1)
            for box in level.boxes:
                found.append([points[edge % 2] + box[edge] * scale[edge % 2] for edge in range(4)])
    return torch.tensor(found)


@pytest.fixture(scope="module", params=sorted(SPECS))
def both(request: pytest.FixtureRequest) -> tuple[DetectionSpec, torch.nn.Module]:
    detection = torchvision_models().detection
    build = getattr(detection, request.param)
    return SPECS[request.param], build(weights=None, weights_backbone=None).eval()


def test_anchors_are_torchvisions(both: tuple[DetectionSpec, torch.nn.Module]) -> None:
    spec, model = both
    size = tuple(model.transform.fixed_size or (128, 192))
    height, width = size[::-1] if model.transform.fixed_size else size
    cells = [(-(-height // stride), -(-width // stride)) for stride in (8, 16, 32, 64, 128, 300)][: len(spec.levels)]
    maps = [torch.zeros(1, 1, *each) for each in cells]
    images = torchvision_models().detection.image_list.ImageList(torch.zeros(1, 3, height, width), [(height, width)])
    [wanted] = model.anchor_generator(images, maps)
    made = torch.cat([anchors(level, each, (height, width)) for level, each in zip(spec.levels, cells, strict=True)])
    torch.testing.assert_close(made, wanted, rtol=1e-5, atol=1e-4)


def test_thresholds_are_torchvisions(both: tuple[DetectionSpec, torch.nn.Module]) -> None:
    spec, model = both
    assert (spec.score_threshold, spec.nms_threshold) == (model.score_thresh, model.nms_thresh)
    assert (spec.candidates, spec.detections) == (model.topk_candidates, model.detections_per_img)
    if spec.coder == "deltas":
        coder = getattr(model, "box_coder", None) or model.head.regression_head.box_coder
        assert tuple(coder.weights) == spec.weights


def test_labels_are_coco() -> None:
    meta = __import__("importlib").import_module(f"{torchvision_models().__name__}._meta")
    assert tuple(meta._COCO_CATEGORIES) == COCO
    assert all(spec.classes == 91 for spec in SPECS.values())
