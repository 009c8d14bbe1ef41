"""CenterFace and YOLOX: boxes that are written into their maps come out again."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fogconv.tasks.detect.centerface import faces, is_centerface
from fogconv.tasks.detect.yolox import cells, objects
from fogconv.zoo.fitting import Placement

SAME = Placement((64, 96), (64, 96), 1.0, 1.0)


def test_a_face_in_the_maps_is_found() -> None:
    heat, scale, offset = (np.zeros((channels, 16, 24), np.float32) for channels in (1, 2, 2))
    marks = np.zeros((10, 16, 24), np.float32)
    for row, score in ((5, 0.9), (6, 0.6)):  # the second one is nearly the first one again
        heat[0, row, 7] = score
        scale[:, row, 7] = math.log(20 / 4), math.log(12 / 4)
        offset[:, row, 7] = 0.25, -0.25
    marks[0:2, 5, 7] = 0.5, 0.25
    (face,) = faces(heat, scale, offset, marks, SAME, lambda _: "face").boxes
    centre = (7 - 0.25 + 0.5) * 4, (5 + 0.25 + 0.5) * 4
    wanted = (centre[0] - 6, centre[1] - 10, centre[0] + 6, centre[1] + 10)
    assert (face.left, face.top, face.right, face.bottom) == pytest.approx(wanted, abs=1e-4)
    assert face.score == pytest.approx(0.9) and face.label == "face"
    assert face.points[0] == pytest.approx((wanted[0] + 0.25 * 12, wanted[1] + 0.5 * 20), abs=1e-4)
    assert len(face.points) == 5


def test_only_four_maps_of_its_channels_are_centerfaces() -> None:
    shapes = [(1, channels, 8, 8) for channels in (1, 2, 2, 10)]
    assert is_centerface(shapes)
    assert not is_centerface(shapes[:3]) and not is_centerface(shapes[::-1])
    assert not is_centerface([*shapes[:3], (1, 10, 4, 8)])


def test_objects_of_every_grid_are_found() -> None:
    output = np.zeros((cells((64, 96)), 7), np.float32)
    coarse = 8 * 12 + 4 * 6  # where the grid of stride 32 begins: 2 rows of 3
    for cell, x, y, w, h, scores in (
        (3 * 12 + 5, 0.5, 0.25, 16, 8, (0.8, 0.1, 0.9)),  # row 3, column 5 of stride 8
        (coarse + 4, 0.5, 0.5, 32, 32, (0.9, 0.9, 0.2)),  # row 1, column 1 of stride 32
    ):
        stride = 8 if cell < coarse else 32
        output[cell] = x, y, math.log(w / stride), math.log(h / stride), *scores
    second, first = objects(output, SAME, lambda index: "ab"[index]).boxes[::-1]
    assert (first.left, first.top, first.right, first.bottom) == pytest.approx((32, 32, 64, 64), abs=1e-4)
    assert (second.left, second.top, second.right, second.bottom) == pytest.approx((36, 22, 52, 30), abs=1e-4)
    assert (first.label, second.label) == ("a", "b")
    assert (first.score, second.score) == pytest.approx((0.81, 0.72))
