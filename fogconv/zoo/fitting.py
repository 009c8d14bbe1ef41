"""Fitting: how a whole picture becomes a network's input of a size that the picture decides, and the way back.

Nothing is cropped: boxes, masks and regions of text belong to places in the picture. `Preprocessing` is for classifiers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fogconv.errors import ModelError
from fogconv.values import table

if TYPE_CHECKING:
    from PIL import Image

_BITS = 11
"""Weights of the linear interpolation are multiples of 2⁻¹¹, as in OpenCV's for bytes."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a picture lies in the input: at the top left. ``picture`` and ``size`` are (H, W) in pixels; ``down`` and
    ``across`` are the input's pixels per pixel of the picture."""

    picture: tuple[int, int]
    size: tuple[int, int]
    down: float
    across: float


@dataclass(frozen=True, slots=True)
class Fitting:
    """``how``: "stretch" to the input's sides; "letterbox": scaled as a whole to the top left, the rest is ``fill``; or
    "line": scaled to the input's height, and narrowed where it is too long.

    ``mean`` and ``std`` are per channel for values from 0 to 1, in the order of the network's channels: ``bgr`` says that
    blue comes first. ``fill`` is a value of the input, after that.

    ``sized``: which input a picture gets. "usual" is always ``usual`` (H, W); it also counts where no picture is at hand.
    "picture": the picture's own size, scaled up until its shorter side has ``least`` pixels, and down until its longer one
    has at most ``most``, then rounded to multiples of ``multiple``, up or to the nearest. "line": the usual height, and a
    width that is the picture's at this height or the usual one.
    """

    how: Literal["stretch", "letterbox", "line"] = "stretch"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bgr: bool = False
    fill: float = 0.0
    sized: Literal["usual", "picture", "line"] = "usual"
    multiple: int = 1
    least: int = 1
    most: int = int(table.SIDE.most)
    rounding: Literal["nearest", "up"] = "nearest"
    usual: tuple[int, int] = (224, 224)

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> Fitting:
        """The same with other means and deviations per channel. Raises ModelError for other than three, or a deviation of
        0."""
        if len(mean) != 3 or len(std) != 3 or 0.0 in std:
            raise ModelError(f"mean {mean} and std {std} must be three numbers each (R, G, B), no std of 0")
        return replace(self, mean=(mean[0], mean[1], mean[2]), std=(std[0], std[1], std[2]))

    def rounded_up(self, size: tuple[int, int]) -> tuple[int, int]:
        """A size (H, W) that is asked for, as multiples that the network takes."""
        height, width = (-(-side // self.multiple) * self.multiple for side in size)
        return height, width

    def size(self, picture: tuple[int, int]) -> tuple[int, int]:
        """The input's (H, W) for a picture's."""
        if self.sized == "usual":
            return self.usual
        if self.sized == "line":
            height, width = self.usual
            return height, min(max(width, math.ceil(height * picture[1] / picture[0])), int(table.SIDE.most))
        scale = max(1.0, self.least / min(picture))
        scale *= min(1.0, self.most / (max(picture) * scale))
        largest = int(table.SIDE.most) // self.multiple
        sides = []
        for side in picture:
            # Rounding half to even, as the packages that the rules come from do it.
            count = -(-side * scale // self.multiple) if self.rounding == "up" else round(int(side * scale) / self.multiple)
            sides.append(self.multiple * min(max(int(count), 1), largest))
        return sides[0], sides[1]

    def __call__(self, picture: Image.Image, size: tuple[int, int]) -> tuple[NDArray[np.float32], Placement]:
        """(3, H, W) float32, and where the picture lies in it."""
        width, height = picture.size
        pixels = np.asarray(picture.convert("RGB"))
        if self.how == "letterbox":
            scale = min(size[0] / height, size[1] / width)
            inside = (max(int(height * scale), 1), max(int(width * scale), 1))
            placement = Placement((height, width), size, scale, scale)
        else:
            inside = size
            if self.how == "line":
                inside = (size[0], min(math.ceil(size[0] * width / height), size[1]))
            placement = Placement((height, width), size, inside[0] / height, inside[1] / width)
        scaled = resized(pixels, inside).transpose(2, 0, 1)
        values = np.asarray(scaled[::-1] if self.bgr else scaled, np.float32) / np.float32(255)
        mean, std = (np.asarray(each, np.float32).reshape(3, 1, 1) for each in (self.mean, self.std))
        values -= mean
        values /= std
        if inside == size:
            return np.ascontiguousarray(values), placement
        x = np.full((3, *size), self.fill, np.float32)
        x[:, : inside[0], : inside[1]] = values
        return x, placement


def resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W, C) bytes interpolated linearly between the centres of four pixels, also where it shrinks.

    The networks were trained on pictures that OpenCV resized: these are its fixed-point numbers (INTER_LINEAR of 8 bits).
    Raises ModelError for a size without pixels.
    """
    if min(*size, *pixels.shape[:2]) < 1:
        raise ModelError(f"a picture of {pixels.shape[0]}×{pixels.shape[1]} can't be resized to {size[0]}×{size[1]} pixels")
    if pixels.shape[:2] == size:
        return pixels
    (top, bottom, above, below), (left, right, before, after) = (
        _neighbours(have, want) for have, want in zip(pixels.shape[:2], size, strict=True)
    )
    wide = pixels.astype(np.int32)
    rows = wide[:, left] * before[:, None] + wide[:, right] * after[:, None]
    rows >>= 4
    out = np.empty((*size, pixels.shape[2]), np.uint8)
    for row in range(size[0]):  # row by row the numbers stay in the cache
        upper = (rows[top[row]] * above[row]) >> 16
        upper += (rows[bottom[row]] * below[row]) >> 16
        out[row] = (upper + 2) >> 2
    return out


def _neighbours(have: int, want: int) -> tuple[Any, Any, Any, Any]:
    """For each of ``want`` pixels the two of ``have`` that it lies between, and their weights."""
    place = ((np.arange(want) + 0.5) * (have / want) - 0.5).astype(np.float32)
    first = np.floor(place).astype(np.int64)
    part = np.where((first < 0) | (first >= have - 1), np.float32(0), place - first.astype(np.float32))
    weight = np.rint(part * (1 << _BITS)).astype(np.int32)
    near = np.rint((1 - part) * np.float32(1 << _BITS)).astype(np.int32)
    return np.clip(first, 0, have - 1), np.clip(first + 1, 0, have - 1), near, weight
