"""YOLOX: for each cell of three grids a box, whether there is an object, and of which class.

Source: Ge et al. 2021, "YOLOX: Exceeding YOLO Series in 2021"; the thresholds are those of ddddocr 1.6.1,
ddddocr/core/detection_engine.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fogconv.ir.arrays import Array
from fogconv.tasks.detect.boxes import Boxes, in_picture, suppressed
from fogconv.zoo.fitting import Placement

STRIDES = (8, 16, 32)
SCORE = 0.1
OVERLAP = 0.45


def cells(size: tuple[int, int]) -> int:
    """The cells of all grids of an input (H, W)."""
    return sum((size[0] // stride) * (size[1] // stride) for stride in STRIDES)


def objects(output: Array, placement: Placement, label: Callable[[int], str]) -> Boxes:
    """The objects of one picture, of whichever class. ``output`` (n, 5 + K): in each cell the centre's offset across and
    down, the logarithms of width and height, the object's score, the scores of K classes; grid by grid, row by row."""
    points, strides = [], []
    for stride in STRIDES:
        rows, columns = (side // stride for side in placement.size)
        down, across = np.divmod(np.arange(rows * columns), columns)
        points.append(np.stack((across, down), 1))
        strides.append(np.full((rows * columns, 1), stride))
    stride_of = np.concatenate(strides)
    every = output[:, 5:] * output[:, 4:5]
    classes = every.argmax(1)
    scores = every[np.arange(len(every)), classes]
    found = scores > SCORE
    centre = ((output[:, :2] + np.concatenate(points)) * stride_of)[found]
    half = (np.exp(output[found, 2:4]) * stride_of[found]) / 2
    boxes = np.concatenate((centre - half, centre + half), 1).astype(np.float32)
    scores, classes = scores[found], classes[found]
    # The border of one pixel is one of the picture, not of the input.
    kept = suppressed(boxes / np.float32(placement.across), scores, OVERLAP, border=1.0)
    return in_picture(boxes[kept], scores[kept], classes[kept], placement, label)
