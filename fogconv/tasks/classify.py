"""Classify: scores become the likeliest classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fogconv.ir.arrays import Array

MOST = 5
SUM_TOLERANCE = 1e-3
"""Scores that are not negative and whose sum is 1 within this are probabilities already."""


@dataclass(frozen=True)
class Guess:
    label: str
    index: int
    probability: float


@dataclass(frozen=True, slots=True)
class Classes:
    """The likeliest classes of one picture, the likeliest first."""

    guesses: tuple[Guess, ...]

    def as_json(self) -> dict[str, Any]:
        return {"classes": [asdict(guess) for guess in self.guesses]}


def classes(scores: Array, label: Callable[[int], str]) -> Classes:
    """Of the scores of one picture, in any shape. Scores that are no probabilities go through a softmax, in float64."""
    values = scores.astype(np.float64).ravel()
    if values.size and not (values.min() >= 0 and abs(values.sum() - 1) < SUM_TOLERANCE):
        values = np.exp(values - values.max())
        values /= values.sum()
    best = np.argsort(-values, kind="stable")[:MOST]
    return Classes(tuple(Guess(label(int(index)), int(index), float(values[index])) for index in best))
