"""Scores per pixel become a mask of the picture's size."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fogconv.errors import ModelError
from fogconv.tasks.draw import drawn
from fogconv.tasks.segment import mask, palette
from fogconv.zoo.fitting import Placement


def test_each_pixel_gets_the_class_of_the_cell_that_covers_it() -> None:
    scores = np.zeros((3, 2, 4), np.float32)
    scores[1, :, 2:] = 1  # the right half
    scores[2, 1, 0] = 2  # a corner below on the left
    found = mask(scores, Placement((20, 40), (2, 4), 0.1, 0.1), lambda index: ("dark", "plane", "bicycle")[index])
    wanted = np.zeros((20, 40), np.uint8)
    wanted[:, 20:] = 1
    wanted[10:, :10] = 2
    np.testing.assert_array_equal(found.classes, wanted)
    assert [(each.label, each.pixels) for each in found.segments] == [
        ("plane", 400), ("dark", 300), ("bicycle", 100),
    ]  # fmt: skip
    assert sum(each.share for each in found.segments) == pytest.approx(1)


def test_a_letterboxed_picture_is_not_mixed_with_its_frame() -> None:
    scores = np.zeros((2, 4, 4), np.float32)
    scores[1, 2:] = 1  # the frame below the picture
    found = mask(scores, Placement((6, 12), (4, 4), 1 / 3, 1 / 3), str)
    assert not found.classes.any()


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 4), (2, 0, 4), (300, 2, 2)])
def test_other_shapes_get_a_sentence(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="no classes per pixel"):
        mask(np.zeros(shape, np.float32), Placement((4, 4), (4, 4), 1, 1), str)


def test_the_palette_is_pascal_vocs() -> None:
    assert [palette(index) for index in (0, 1, 2, 15)] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (192, 128, 128)]
    assert len({palette(index) for index in range(256)}) == 256


def test_only_what_is_no_background_is_drawn_over() -> None:
    scores = np.zeros((2, 1, 2), np.float32)
    scores[1, 0, 1] = 1
    canvas = drawn(Image.new("RGB", (2, 1), (100, 100, 100)), mask(scores, Placement((1, 2), (1, 2), 1, 1), str))
    assert canvas.getpixel((0, 0)) == (100, 100, 100)
    assert canvas.getpixel((1, 0)) == (114, 50, 50)
