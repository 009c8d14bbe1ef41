"""Curves: which cuts are measured how often, and what is made of their times. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fogconv.choice.cuts import Curve

OFTEN_S = 10.0
"""A cut that is predicted to take longer is measured once,"""
ONCE_S = 60.0
"""and one that takes longer than this is not measured; its prediction counts, marked."""


@dataclass(frozen=True)
class Point:
    """One cut over one link. ``k``: the slices that the master computes. No ``seconds``: not measured."""

    k: int
    predicted_s: float
    seconds: tuple[float, ...] = ()

    @property
    def best_known_s(self) -> float:
        return statistics.median(self.seconds) if self.seconds else self.predicted_s


def turns(predicted_s: Sequence[float | None], rounds: int) -> list[list[int]]:
    """The cuts to measure, round after round, so that those that are compared are measured in turns."""
    known = [(k, each) for k, each in enumerate(predicted_s) if each is not None]
    often = [k for k, each in known if each <= OFTEN_S]
    once = [k for k, each in known if OFTEN_S < each <= ONCE_S]
    return [often + (once if not number else []) for number in range(rounds)]


def curve_json(bandwidth: str, points: Sequence[Point], k_chosen: int) -> dict[str, Any]:
    """``speedup`` is over the master alone, which computes all slices. A chosen cut that is as fast as the best, within what
    the two differ by from run to run, counts as the best."""
    by_k = {point.k: point for point in points}
    alone, chosen = by_k[max(by_k)], by_k[k_chosen]
    best = min(points, key=lambda point: point.best_known_s)
    level = best.k == k_chosen or _overlap(best, chosen)
    return {
        "bandwidth": bandwidth,
        "k_chosen": k_chosen,
        "k_best": best.k,
        "chosen_is_best": level,
        "speedup": alone.best_known_s / chosen.best_known_s,
        "best_speedup": alone.best_known_s / best.best_known_s,
        "cuts": [
            {
                "k": point.k,
                "predicted_s": point.predicted_s,
                "measured_s": point.best_known_s if point.seconds else None,
                "runs": len(point.seconds),
            }
            for point in points
        ],
    }


def _overlap(first: Point, second: Point) -> bool:
    """Whether the middle halves of both cuts' runs overlap."""
    if min(len(first.seconds), len(second.seconds)) < 4:
        return False
    (a, b), (c, d) = (_middle(point.seconds) for point in (first, second))
    return a <= d and c <= b


def _middle(seconds: Sequence[float]) -> tuple[float, float]:
    low, _, high = statistics.quantiles(seconds, n=4)
    return low, high


def as_curve(bandwidth_bytes_per_s: float, points: Sequence[Point]) -> Curve:
    """For the picture that `fogconv cuts` draws, too."""
    return Curve(bandwidth_bytes_per_s, tuple(point.best_known_s for point in points), (None,) * len(points))
