"""Outlines: the connected parts of a mask, the holes in them, and the smallest rectangle around points.

What OpenCV does by findContours, minAreaRect and fillPoly, for the few shapes that are needed here: OpenCV would double
what a master takes on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""(n, 2): x and y in pixels."""


def outlines(mask: NDArray[np.bool_]) -> Iterator[Points]:
    """The outline of each connected part of a mask (H, W), corners connect, and of each hole in one: points of the mask that
    have the same convex hull as the outline."""
    framed = np.pad(mask, 1)
    for row, begin, end, _ in _parts(framed, 1):
        yield np.stack((np.concatenate((begin, end - 1)), np.concatenate((row, row))), 1) - 1.0
    for row, begin, end, outside in _parts(~framed, 0):
        if not outside:
            # The mask's pixels beside the hole, above it and below it.
            x = np.concatenate((begin - 1, end, begin, end - 1, begin, end - 1))
            y = np.concatenate((row, row, row - 1, row - 1, row + 1, row + 1))
            yield np.stack((x, y), 1) - 1.0


def _parts(mask: NDArray[np.bool_], slant: int) -> Iterator[tuple[Any, Any, Any, bool]]:
    """The runs (row, begin, end) of each connected part, and whether it touches the mask's first row. ``slant`` 1: pixels
    that touch at their corners are connected, too."""
    width = mask.shape[1] + 2
    change = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, begin = np.nonzero(change == 1)
    _, end = np.nonzero(change == -1)
    if not row.size:
        return
    # The runs of the row above that meet a run follow each other.
    first = np.searchsorted(row * width + end, (row - 1) * width + begin + 1 - slant)
    last = np.searchsorted(row * width + begin, (row - 1) * width + end - 1 + slant, side="right")
    count = np.maximum(last - first, 0)
    below = np.repeat(np.arange(row.size), count)
    above = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    part = np.arange(row.size)
    while True:
        before = part
        part = before.copy()
        low = np.minimum(before[below], before[above])
        np.minimum.at(part, before[below], low)
        np.minimum.at(part, before[above], low)
        part = part[part]
        if np.array_equal(part, before):
            break
    order = np.argsort(part, kind="stable")
    for runs in np.split(order, np.nonzero(np.diff(part[order]))[0] + 1):
        yield row[runs], begin[runs], end[runs], bool(row[runs[0]] == 0)


def hull(points: Points) -> Points:
    """The corners of the convex hull (Andrew's monotone chain)."""
    ordered = np.unique(points, axis=0)
    if len(ordered) < 3:
        return ordered
    chains = []
    for sequence in (ordered, ordered[::-1]):
        chain: list[Any] = []
        for x, y in sequence.tolist():
            while len(chain) > 1:
                (ax, ay), (bx, by) = chain[-2:]
                if (bx - ax) * (y - ay) > (by - ay) * (x - ax):
                    break
                chain.pop()
            chain.append((x, y))
        chains += chain[:-1]
    return np.array(chains, np.float64)


def smallest_rectangle(points: Points) -> tuple[Points, float]:
    """The rectangle of the least area around points, at any angle: its corners (4, 2), clockwise from the upper one of its
    two leftmost corners, and its shorter side. One of its sides lies on a side of the convex hull."""
    around = hull(points)
    sides = np.roll(around, -1, 0) - around
    lengths = np.hypot(*sides.T)
    along = sides[lengths > 0] / lengths[lengths > 0, None] if len(around) > 1 else np.array(((1.0, 0.0),))
    across = np.stack((-along[:, 1], along[:, 0]), 1)
    u, v = around @ along.T, around @ across.T
    (u0, u1), (v0, v1) = (u.min(0), u.max(0)), (v.min(0), v.max(0))
    best = int(np.argmin((u1 - u0) * (v1 - v0)))
    corners = np.array(
        [
            along[best] * each + across[best] * other
            for each, other in ((u0[best], v0[best]), (u1[best], v0[best]), (u1[best], v1[best]), (u0[best], v1[best]))
        ]
    )
    return clockwise(corners), float(min(u1[best] - u0[best], v1[best] - v0[best]))


def clockwise(corners: Points) -> Points:
    """Four corners: the upper one of the two leftmost, the upper and the lower one of the two rightmost, the other."""
    by_x = corners[np.argsort(corners[:, 0], kind="stable")]
    left, right = (pair[np.argsort(pair[:, 1], kind="stable")] for pair in (by_x[:2], by_x[2:]))
    return np.array((left[0], right[0], right[1], left[1]))


def area(corners: Points) -> float:
    """Of a polygon, by the shoelace formula."""
    x, y = corners.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def perimeter(corners: Points) -> float:
    return float(np.hypot(*(np.roll(corners, -1, 0) - corners).T).sum())


def filled(corners: NDArray[np.int64], height: int, width: int) -> NDArray[np.bool_]:
    """The pixels (H, W) of a convex polygon, those that its edges are drawn through included."""
    y, x = np.mgrid[:height, :width]
    inside = np.ones((height, width), np.bool_)
    steps = np.roll(corners, -1, 0) - corners
    turn = np.sign(corners[:, 0] @ np.roll(corners[:, 1], -1) - corners[:, 1] @ np.roll(corners[:, 0], -1)) or 1
    for (x0, y0), (dx, dy) in zip(corners, steps, strict=True):
        inside &= turn * (dx * (y - y0) - dy * (x - x0)) >= -max(abs(dx), abs(dy)) / 2
    return inside
