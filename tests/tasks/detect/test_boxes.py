"""Suppression, held to the definition, pair by pair."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fogconv.tasks.detect.boxes import in_picture, suppressed, suppressed_by_class
from fogconv.zoo.fitting import Placement

corner = st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 8), st.integers(1, 8))


def overlap(a: np.ndarray, b: np.ndarray, border: float) -> float:
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + border)
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + border)
    areas = [(each[2] - each[0] + border) * (each[3] - each[1] + border) for each in (a, b)]
    union = sum(areas) - wide * high
    return wide * high / union if union else 0.0


def by_definition(boxes: np.ndarray, scores: np.ndarray, threshold: float, border: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if all(overlap(boxes[i], boxes[k], border) <= threshold for k in kept):
            kept.append(i)
    return kept


@given(
    st.lists(st.tuples(corner, st.integers(1, 9)), max_size=14), st.sampled_from([0.1, 0.3, 0.55]), st.sampled_from([0, 1])
)
def test_a_box_goes_only_for_a_better_one_over_it(found: list, threshold: float, border: float) -> None:
    boxes = np.array([(x, y, x + w, y + h) for (x, y, w, h), _ in found], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score in found], np.float32)
    assert suppressed(boxes, scores, threshold, border=border).tolist() == by_definition(boxes, scores, threshold, border)


def test_classes_do_not_suppress_each_other() -> None:
    boxes = np.array([(0, 0, 4, 4)] * 3, np.float32)
    scores = np.array([0.5, 0.9, 0.7], np.float32)
    assert suppressed_by_class(boxes, scores, np.array([1, 2, 1]), 0.5).tolist() == [1, 2]
    assert suppressed_by_class(boxes[:0], scores[:0], np.array([], np.int64), 0.5).tolist() == []


def test_boxes_come_back_in_pixels_of_the_picture() -> None:
    placement = Placement((100, 300), (50, 50), 0.5, 1 / 6)
    boxes = np.array([(5, 10, 25, 60)], np.float32)
    points = np.array([[(10, 20)]], np.float32)
    (box,) = in_picture(boxes, np.array([0.5], np.float32), [0], placement, str, points).boxes
    assert (box.left, box.top, box.right, box.bottom) == (30, 20, 150, 100)
    assert box.points == ((60, 40),)
