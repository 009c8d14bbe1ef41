"""Segment: scores of classes per pixel become a class per pixel of the picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.errors import ModelError
from fogconv.ir.arrays import Array
from fogconv.zoo.fitting import Placement

MOST_CLASSES = 256


@dataclass(frozen=True, slots=True)
class Segment:
    """A class that the mask has. ``share``: its part of the picture's pixels."""

    index: int
    label: str
    pixels: int
    share: float


@dataclass(frozen=True, slots=True)
class Mask:
    """``classes`` (H, W) uint8: the number of each pixel's class; ``segments``: those that occur, the largest first."""

    classes: NDArray[np.uint8]
    segments: tuple[Segment, ...]

    def as_json(self) -> dict[str, Any]:
        named = [
            {"class": each.index, "label": each.label, "pixels": each.pixels, "share": each.share} for each in self.segments
        ]
        return {"mask": {"height": self.classes.shape[0], "width": self.classes.shape[1], "segments": named}}


def mask(scores: Array, placement: Placement, label: Callable[[int], str]) -> Mask:
    """Of scores (K, h, w) of one picture: the best class of each, taken to the nearest pixels of the picture.

    Raises ModelError for scores of another shape.
    """
    if scores.ndim != 3 or not 2 <= scores.shape[0] <= MOST_CLASSES or 0 in scores.shape:
        raise ModelError(
            f"scores of the shape {scores.shape} are no classes per pixel (K, H, W), K from 2 to {MOST_CLASSES}"
        )
    best = scores.argmax(0).astype(np.uint8)
    rows, columns = (
        _nearest(have, side, scale * have / size)
        for have, side, scale, size in zip(
            best.shape, placement.picture, (placement.down, placement.across), placement.size, strict=True
        )
    )
    found = best[rows[:, None], columns[None, :]]
    numbers, counts = np.unique(found, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return Mask(
        found,
        tuple(
            Segment(int(numbers[i]), label(int(numbers[i])), int(counts[i]), float(counts[i] / found.size)) for i in order
        ),
    )


def _nearest(have: int, want: int, scale: float) -> NDArray[np.int64]:
    """The index of the map's cell below each pixel of the picture."""
    return np.clip(((np.arange(want) + 0.5) * scale).astype(np.int64), 0, have - 1)


def palette(index: int) -> tuple[int, int, int]:
    """The colour of a class: Pascal VOC's, whose bits come from the number's bits. Class 0, the background, is black."""
    red = green = blue = 0
    for place in range(8):
        red |= (index >> (3 * place) & 1) << (7 - place)
        green |= (index >> (3 * place + 1) & 1) << (7 - place)
        blue |= (index >> (3 * place + 2) & 1) << (7 - place)
    return red, green, blue
