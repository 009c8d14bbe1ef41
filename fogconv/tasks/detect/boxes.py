"""Boxes in a picture, and the suppression of those that show what a better one shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.ir.arrays import Array
from fogconv.zoo.fitting import Placement

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Box:
    """In pixels of the picture. ``points`` are (x, y), such as eyes, nose and corners of the mouth."""

    left: float
    top: float
    right: float
    bottom: float
    score: float
    label: str
    index: int
    points: tuple[tuple[float, float], ...] = ()

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "box": [self.left, self.top, self.right, self.bottom],
            "score": self.score,
            "label": self.label,
            "class": self.index,
        }
        return found | ({"points": [list(point) for point in self.points]} if self.points else {})


@dataclass(frozen=True, slots=True)
class Boxes:
    """All of one picture, the best first."""

    boxes: tuple[Box, ...]

    def as_json(self) -> dict[str, Any]:
        return {"boxes": [box.as_json() for box in self.boxes]}


def suppressed(boxes: Array, scores: Array, threshold: float, *, border: float = 0.0) -> Indices:
    """The indices of the boxes (n, 4) that remain, the best first: each suppresses all worse ones whose intersection over
    union with it is above the threshold. ``border`` is added to sides: 1 where a box includes its last pixel."""
    order = np.argsort(-scores, kind="stable")
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1 + border) * (y2 - y1 + border)
    kept = []
    while order.size:
        best, others = order[0], order[1:]
        kept.append(int(best))
        wide = np.maximum(0.0, np.minimum(x2[best], x2[others]) - np.maximum(x1[best], x1[others]) + border)
        high = np.maximum(0.0, np.minimum(y2[best], y2[others]) - np.maximum(y1[best], y1[others]) + border)
        common = wide * high
        union = areas[best] + areas[others] - common
        order = others[common <= threshold * union]
    return np.array(kept, np.int64)


def suppressed_by_class(boxes: Array, scores: Array, classes: Indices, threshold: float) -> Indices:
    """The same within each class."""
    members = [np.nonzero(classes == each)[0] for each in np.unique(classes)]
    kept = [of[suppressed(boxes[of], scores[of], threshold)] for of in members]
    found = np.concatenate([*kept, np.empty(0, np.int64)])
    return found[np.argsort(-scores[found], kind="stable")]


def in_picture(
    boxes: Array,
    scores: Array,
    classes: Sequence[int] | Indices,
    placement: Placement,
    label: Callable[[int], str],
    points: Array | None = None,
) -> Boxes:
    """Boxes (n, 4), (x1, y1, x2, y2) in pixels of the input, as boxes of the picture, and cut off at its edges.

    ``points`` are (n, k, 2).
    """
    height, width = placement.picture
    scale = np.array((placement.across, placement.down) * 2)
    edges = np.clip(boxes / scale, 0, (width, height) * 2).astype(float)
    marks = None if points is None else (points / scale[:2]).astype(float)
    found = []
    for i, (left, top, right, bottom) in enumerate(edges.tolist()):
        own = () if marks is None else tuple((x, y) for x, y in marks[i].tolist())
        index = int(classes[i])
        found.append(Box(left, top, right, bottom, float(scores[i]), label(index), index, own))
    return Boxes(tuple(found))
