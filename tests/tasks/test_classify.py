"""Scores become the likeliest classes."""

from __future__ import annotations

import numpy as np
import pytest

from fogconv.tasks.classify import classes


def test_scores_go_through_a_softmax() -> None:
    found = classes(np.array([[[1.0]], [[3.0]], [[2.0]]], np.float32), lambda index: f"class {index}").guesses
    assert [guess.index for guess in found] == [1, 2, 0]
    assert found[0].probability == pytest.approx(np.exp(3) / (np.exp(1) + np.exp(2) + np.exp(3)))
    assert found[0].label == "class 1"


def test_probabilities_stay_as_they_are() -> None:
    found = classes(np.array([0.1, 0.85, 0.05], np.float32), str).guesses
    assert [guess.probability for guess in found] == pytest.approx([0.85, 0.1, 0.05])


def test_large_scores_do_not_overflow() -> None:
    assert classes(np.array([1e4, -1e4], np.float32), str).guesses[0].probability == 1.0
