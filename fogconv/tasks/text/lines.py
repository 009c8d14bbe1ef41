"""Lines: one line of text cut out of a picture, as a recogniser's input, and its output as characters.

Source: PP-OCR (Du et al. 2020) and Graves et al. 2006, "Connectionist Temporal Classification"; the figures are those of
rapidocr-onnxruntime 1.4.4, rapidocr_onnxruntime/ch_ppocr_rec and ch_ppocr_cls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from fogconv.ir.arrays import Array
from fogconv.tasks.text.outlines import Points

BLANK = 0
TALL = 1.5
"""A region this many times as high as wide is a line from top to bottom, and is turned."""


def cut_out(picture: Image.Image, corners: Sequence[tuple[int, int]]) -> Image.Image:
    """The upright rectangle that four corners, clockwise from the upper left one, become."""
    points = np.array(corners, np.float64)
    across, down = points - points[[1, 2, 3, 0]], points - points[[3, 0, 1, 2]]
    width = max(int(max(math.hypot(*across[0]), math.hypot(*across[2]))), 1)
    height = max(int(max(math.hypot(*down[0]), math.hypot(*down[2]))), 1)
    target = np.array(((0, 0), (width, 0), (width, height), (0, height)), np.float64)
    # Pillow counts from a pixel's corner; the corners of regions are centres of pixels.
    found = picture.convert("RGB").transform(
        (width, height), Image.Transform.PERSPECTIVE, _perspective(target + 0.5, points + 0.5), Image.Resampling.BICUBIC
    )
    return found.transpose(Image.Transpose.ROTATE_90) if height >= TALL * width else found


def _perspective(start: Points, end: Points) -> tuple[float, ...]:
    """The eight numbers of the projection that takes four points to four others."""
    rows, values = [], []
    for (x, y), (u, v) in zip(start.tolist(), end.tolist(), strict=True):
        rows += [(x, y, 1, 0, 0, 0, -u * x, -u * y), (0, 0, 0, x, y, 1, -v * x, -v * y)]
        values += [u, v]
    return tuple(float(each) for each in np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0])


def decoded(probabilities: Array, characters: Sequence[str]) -> tuple[str, float]:
    """The characters of (T, K) and their mean probability: the best of each step, without repetitions and blanks.

    ``characters`` is by number from 1 on; number 0 is the blank, and the last one is a space that the list leaves out.
    """
    best = probabilities.argmax(1)
    shown = (best != BLANK) & (np.diff(best, prepend=BLANK) != 0)
    every = ("", *characters, " ")
    text = "".join(every[index] if index < len(every) else "�" for index in best[shown])
    return text, float(probabilities.max(1)[shown].mean(dtype=np.float64)) if shown.any() else 0.0
