"""DetectionSpec: what turns a detector's raw maps into boxes, as data. No torch here.

A detector runs as a network with several outputs, one map of each sort per level: ``cls_logits.0`` (N, A·K, H₀, W₀) with A
anchors in each cell and K classes, ``bbox_regression.0`` (N, A·4, H₀, W₀) and, for FCOS, ``bbox_ctrness.0`` (N, A, H₀, W₀).
Channel a·K + k is class k of anchor a. Boxes are (x1, y1, x2, y2) in pixels of the network's input.

Sources of the figures: torchvision 0.28, torchvision/models/detection (ssd.py, ssdlite.py, retinanet.py, fcos.py,
anchor_utils.py, _utils.py); Liu et al. 2016 (SSD), Lin et al. 2017 (RetinaNet), Tian et al. 2019 (FCOS).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Box = tuple[float, float, float, float]
"""(x1, y1, x2, y2)."""

MOST_LOG_SIZE = math.log(1000.0 / 16)
"""Predicted logarithms of sides are cut off here before they are exponentiated."""


@dataclass(frozen=True, slots=True)
class AnchorLevel:
    """The anchors of one level's cells.

    ``boxes``: one cell's anchors around its point, in pixels, or with ``relative`` in parts of the input's width and
    height. A cell's point is (index + ``offset``) · stride in both directions. ``stride`` in pixels; None: the input's side
    divided by the map's, rounded down where ``offset`` is 0.
    """

    boxes: tuple[Box, ...]
    stride: float | None = None
    offset: float = 0.0
    relative: bool = False


@dataclass(frozen=True, slots=True)
class DetectionSpec:
    """How a detector's outputs become boxes with scores and classes.

    ``score``: "softmax" over the classes, of which number 0 is the background; "sigmoid" of each; or "centered", the root of
    sigmoid(class) · sigmoid(centerness). ``coder``: "deltas" (dx, dy, dw, dh), divided by ``weights``, move an anchor's
    centre by dx, dy times its sides and scale its sides by exp(dw), exp(dh), at most `MOST_LOG_SIZE`; "distances" are those
    from an anchor's centre to the left, top, right and bottom, in the anchor's sides.

    Candidates are those scores above ``score_threshold``, the ``candidates`` best of each level, or of each class where
    ``by_class``; then non-maximum suppression within each class at ``nms_threshold`` (intersection over union), and the
    ``detections`` best remain. ``fit``: how a picture becomes the input: "stretch" to its size, or "letterbox": scaled as a
    whole, at the top left, the rest 0 after normalisation. ``labels``: by class number, the background's included where it
    has one.
    """

    levels: tuple[AnchorLevel, ...]
    labels: tuple[str, ...]
    score: Literal["softmax", "sigmoid", "centered"]
    coder: Literal["deltas", "distances"]
    weights: tuple[float, float, float, float]
    score_threshold: float
    nms_threshold: float
    candidates: int
    detections: int
    by_class: bool
    fit: Literal["stretch", "letterbox"]

    @property
    def classes(self) -> int:
        return len(self.labels)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the network's outputs, in their order: all levels of one sort, then the next sort."""
        sorts = ("cls_logits", "bbox_regression", *(("bbox_ctrness",) if self.score == "centered" else ()))
        return tuple(f"{sort}.{level}" for sort in sorts for level in range(len(self.levels)))


def _default_boxes(scales: Sequence[float], ratios: Sequence[Sequence[int]]) -> tuple[tuple[Box, ...], ...]:
    """SSD's default boxes per level: two squares, then two boxes for each ratio; no side is longer than the input's."""
    levels = []
    for level, wide in enumerate(ratios):
        between = math.sqrt(scales[level] * scales[level + 1])
        sides = [(scales[level], scales[level]), (between, between)]
        for ratio in wide:
            long, short = scales[level] * math.sqrt(ratio), scales[level] / math.sqrt(ratio)
            sides += [(long, short), (short, long)]
        halves = [(min(width, 1.0) / 2, min(height, 1.0) / 2) for width, height in sides]
        levels.append(tuple((-x, -y, x, y) for x, y in halves))
    return tuple(levels)


def _square_roots(sizes: Sequence[int], ratios: Sequence[float]) -> tuple[Box, ...]:
    """Anchors of one area per size and one height-to-width ratio each, rounded to whole pixels from the centre."""
    boxes = []
    for ratio in ratios:
        for size in sizes:
            x, y = (float(round(side / 2)) for side in (size / math.sqrt(ratio), size * math.sqrt(ratio)))
            boxes.append((-x, -y, x, y))
    return tuple(boxes)


COCO = (
    "__background__", "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "N/A", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "N/A", "backpack", "umbrella", "N/A", "N/A", "handbag", "tie", "suitcase", "frisbee", "skis",
    "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket",
    "bottle", "N/A", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "N/A",
    "dining table", "N/A", "N/A", "toilet", "N/A", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave",
    "oven", "toaster", "sink", "refrigerator", "N/A", "book", "clock", "vase", "scissors", "teddy bear", "hair drier",
    "toothbrush",
)  # fmt: skip
"""Microsoft COCO's classes by number (Lin et al. 2014), as torchvision's detectors use them."""

_SSD_RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
_LITE_SCALES = (*(0.2 + 0.75 * level / 5 for level in range(6)), 1.0)

SPECS: Mapping[str, DetectionSpec] = MappingProxyType({
    "ssd300_vgg16": DetectionSpec(
        tuple(
            AnchorLevel(boxes, stride, 0.5, relative=True)
            for boxes, stride in zip(
                _default_boxes((0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05), _SSD_RATIOS),
                (8, 16, 32, 64, 100, 300),
                strict=True,
            )
        ),
        COCO, "softmax", "deltas", (10.0, 10.0, 5.0, 5.0), 0.01, 0.45, 400, 200, by_class=True, fit="stretch",
    ),
    "ssdlite320_mobilenet_v3_large": DetectionSpec(
        tuple(AnchorLevel(boxes, None, 0.5, relative=True) for boxes in _default_boxes(_LITE_SCALES, ((2, 3),) * 6)),
        COCO, "softmax", "deltas", (10.0, 10.0, 5.0, 5.0), 0.001, 0.55, 300, 300, by_class=True, fit="stretch",
    ),
    "retinanet_resnet50_fpn": DetectionSpec(
        tuple(
            AnchorLevel(_square_roots([size, int(size * 2 ** (1 / 3)), int(size * 2 ** (2 / 3))], (0.5, 1.0, 2.0)))
            for size in (32, 64, 128, 256, 512)
        ),
        COCO, "sigmoid", "deltas", (1.0, 1.0, 1.0, 1.0), 0.05, 0.5, 1000, 300, by_class=False, fit="letterbox",
    ),
    "fcos_resnet50_fpn": DetectionSpec(
        tuple(AnchorLevel(_square_roots([size], (1.0,))) for size in (8, 16, 32, 64, 128)),
        COCO, "centered", "distances", (1.0, 1.0, 1.0, 1.0), 0.2, 0.6, 1000, 100, by_class=False, fit="letterbox",
    ),
})  # fmt: skip
"""By the zoo's names."""
