"""Connected parts, holes and smallest rectangles, held to slow and simple definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fogconv.tasks.text.outlines import area, clockwise, filled, hull, outlines, perimeter, smallest_rectangle

STRAIGHT = [(0, 1), (1, 0), (0, -1), (-1, 0)]
SLANTED = [*STRAIGHT, (1, 1), (1, -1), (-1, 1), (-1, -1)]


def flooded(mask: np.ndarray, steps: list[tuple[int, int]]) -> list[set[tuple[int, int]]]:
    """The parts of a mask, pixel by pixel (row, column)."""
    left = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    parts = []
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            pixel = edge.pop()
            part.add(pixel)
            near = {(pixel[0] + down, pixel[1] + across) for down, across in steps} & left
            left -= near
            edge += near
        parts.append(part)
    return parts


def corners(points: np.ndarray) -> tuple[tuple[float, float], ...]:
    return tuple(sorted((float(x), float(y)) for x, y in hull(points)))


def by_definition(mask: np.ndarray) -> list[tuple[tuple[float, float], ...]]:
    """The hulls of all outlines: of each part, and of the mask's pixels around each hole."""
    found = [corners(np.array([(x, y) for y, x in part], float)) for part in flooded(mask, SLANTED)]
    outside = np.pad(~mask, 1, constant_values=True)
    for part in flooded(outside, STRAIGHT):
        if (0, 0) in part:
            continue
        around = {(y + down, x + across) for y, x in part for down, across in STRAIGHT} - part
        found.append(corners(np.array([(x - 1, y - 1) for y, x in around], float)))
    return sorted(found)


@given(arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.booleans()))
def test_outlines_are_those_of_parts_and_holes(mask: np.ndarray) -> None:
    assert sorted(corners(outline) for outline in outlines(mask)) == by_definition(mask)


def test_a_spiral_is_one_part() -> None:
    mask = np.zeros((9, 9), bool)
    mask[0] = mask[:, 8] = mask[8] = mask[2:, 0] = mask[2, :7] = mask[2:7, 6] = True
    (outline, *holes) = outlines(mask)
    assert corners(outline) == ((0, 0), (0, 8), (8, 0), (8, 8)) and not holes


@pytest.mark.parametrize("degrees", [0, 10, 37, 45, 80, 90, 123])
def test_the_smallest_rectangle_of_a_turned_one_is_itself(degrees: float) -> None:
    turn = math.radians(degrees)
    along, across = np.array((math.cos(turn), math.sin(turn))), np.array((-math.sin(turn), math.cos(turn)))
    wanted = np.array([(30, 30) + a * 12 * along + b * 5 * across for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))])
    inside = wanted.mean(0) + 0.4 * (wanted - wanted.mean(0))
    found, shorter = smallest_rectangle(np.concatenate((inside, wanted, wanted[:1])))
    assert shorter == pytest.approx(10)
    np.testing.assert_allclose(found, clockwise(wanted), atol=1e-9)
    assert area(found) == pytest.approx(240) and perimeter(found) == pytest.approx(68)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=12))
def test_the_smallest_rectangle_holds_all_points_and_none_is_smaller(found: list[tuple[int, int]]) -> None:
    points = np.array(found, float)
    rectangle, shorter = smallest_rectangle(points)
    centre = rectangle.mean(0)
    for side, (begin, end) in enumerate(zip(rectangle, np.roll(rectangle, -1, 0), strict=True)):
        length = np.hypot(*(end - begin))
        if length > 1e-9:
            normal = np.array((end[1] - begin[1], begin[0] - end[0])) / length
            normal *= np.sign(normal @ (begin - centre)) or 1
            assert ((points - begin) @ normal <= 1e-6).all(), side
    for degrees in range(0, 90, 5):
        u = points @ (math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
        v = points @ (-math.sin(math.radians(degrees)), math.cos(math.radians(degrees)))
        assert area(rectangle) <= np.ptp(u) * np.ptp(v) + 1e-6
    assert shorter <= np.ptp(points, axis=0).max() + 1e-9


def test_a_filled_polygon_includes_its_edges() -> None:
    square = np.array([(1, 1), (4, 1), (4, 3), (1, 3)])
    wanted = np.zeros((5, 6), bool)
    wanted[1:4, 1:5] = True
    np.testing.assert_array_equal(filled(square, 5, 6), wanted)
    np.testing.assert_array_equal(filled(square[::-1], 5, 6), wanted)
