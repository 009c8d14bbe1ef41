"""Regions: a map of how probably each pixel belongs to text becomes rectangles around lines of text.

Source: Liao et al. 2020, "Real-time Scene Text Detection with Differentiable Binarization"; the figures are those of
rapidocr-onnxruntime 1.4.4, rapidocr_onnxruntime/config.yaml.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.errors import DependencyError, ModelError, with_extra
from fogconv.ir.arrays import Array
from fogconv.tasks.text.outlines import Points, area, clockwise, filled, outlines, perimeter, smallest_rectangle
from fogconv.zoo.fitting import Placement

PIXEL = 0.3
"""The least probability of a pixel of text."""
SCORE = 0.5
"""The least mean probability in a region."""
GROWTH = 1.6
"""A region is the core of a line of text: it grows by its area times this, divided by its perimeter."""
LEAST_CORE, LEAST_REGION, LEAST_SIDE = 3, 5, 4
"""The least shorter side of a core and of a region, in the map's pixels, and of a region in the picture's."""
MOST = 1000
SAME_LINE = 10
"""Regions whose tops differ by less pixels are read from left to right."""


@dataclass(frozen=True, slots=True)
class Region:
    """``corners`` (x, y) in pixels of the picture, clockwise from the upper left one. ``text`` is None where it was not
    read."""

    corners: tuple[tuple[int, int], ...]
    score: float
    text: str | None = None
    text_score: float | None = None

    def as_json(self) -> dict[str, Any]:
        read = {} if self.text is None else {"text": self.text, "text_score": self.text_score}
        return {"corners": [list(corner) for corner in self.corners], "score": self.score} | read


@dataclass(frozen=True, slots=True)
class Regions:
    """All of one picture, in the order of reading."""

    regions: tuple[Region, ...]

    def as_json(self) -> dict[str, Any]:
        return {"regions": [region.as_json() for region in self.regions]}


def regions(probabilities: Array, placement: Placement) -> Regions:
    """The regions of one picture, from a map (1, h, w). Raises DependencyError without pyclipper, ModelError for a map of
    another shape."""
    if probabilities.ndim != 3 or len(probabilities) != 1 or not probabilities.size:
        raise ModelError(f"an output of the shape {probabilities.shape} is no map of text (1, H, W)")
    (map_,) = probabilities
    found = []
    for outline in _cores(map_ > PIXEL):
        core, shorter = smallest_rectangle(outline)
        if shorter < LEAST_CORE:
            continue
        score = _mean_inside(map_, core)
        if score < SCORE:
            continue
        region, shorter = smallest_rectangle(_grown(core))
        if shorter < LEAST_REGION:
            continue
        corners = _in_picture(region, map_.shape, placement)
        if corners is not None:
            found.append(Region(corners, score))
        if len(found) == MOST:
            break
    return Regions(tuple(_reading_order(found)))


def _cores(mask: NDArray[np.bool_]) -> Iterator[Points]:
    """The outlines of the mask, after each of its pixels has grown by one to the right, down and to the lower right."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:, 1:] |= grown[:, :-1].copy()
    for outline in outlines(grown):
        if np.ptp(outline, axis=0).max() >= LEAST_CORE:
            yield outline


def _mean_inside(map_: Array, corners: Points) -> float:
    height, width = map_.shape
    left, top = (int(np.clip(np.floor(corners[:, axis].min()), 0, side - 1)) for axis, side in ((0, width), (1, height)))
    right, bottom = (int(np.clip(np.ceil(corners[:, axis].max()), 0, side - 1)) for axis, side in ((0, width), (1, height)))
    part = map_[top : bottom + 1, left : right + 1]
    inside = filled((corners - (left, top)).astype(np.int64), *part.shape)
    return float(part[inside].mean(dtype=np.float64)) if inside.any() else 0.0


def _grown(corners: Points) -> Points:
    """A rectangle with rounded corners around a rectangle, in whole pixels."""
    try:
        import pyclipper
    except ImportError as error:
        raise DependencyError(f"regions of text need pyclipper, which is not installed: {with_extra('text')}") from error
    offset = pyclipper.PyclipperOffset()
    offset.AddPath(corners.astype(np.float32), pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    grown = offset.Execute(area(corners) * GROWTH / perimeter(corners))
    return np.array([point for path in grown for point in path], np.float64).reshape(-1, 2)


def _in_picture(region: Points, shape: tuple[int, ...], placement: Placement) -> tuple[tuple[int, int], ...] | None:
    """In whole pixels of the picture; None where that is too small."""
    height, width = placement.picture
    across, down = shape[1] * placement.across / placement.size[1], shape[0] * placement.down / placement.size[0]
    scaled = np.clip(np.rint(region / (across, down)), 0, (width, height))
    corners = np.clip(clockwise(scaled), 0, (width - 1, height - 1)).astype(int)
    sides = np.hypot(*(corners[[0, 0]] - corners[[1, 3]]).T)
    if sides.astype(int).min() < LEAST_SIDE:
        return None
    return tuple((int(x), int(y)) for x, y in corners)


def _reading_order(found: list[Region]) -> list[Region]:
    ordered = sorted(found, key=lambda region: region.corners[0][::-1])
    for last in range(1, len(ordered)):
        for i in range(last, 0, -1):
            (ax, ay), (bx, by) = ordered[i - 1].corners[0], ordered[i].corners[0]
            if abs(by - ay) >= SAME_LINE or bx >= ax:
                break
            ordered[i - 1], ordered[i] = ordered[i], ordered[i - 1]
    return ordered
