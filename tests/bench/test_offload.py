"""The bench of offload: what is measured how often, and what is made of it. The run itself needs root."""

from __future__ import annotations

import pytest

from bench.fog.shaping import Rate
from bench.offload.arrival import summary, turning_points
from bench.offload.curves import Point, as_curve, curve_json, turns


def test_short_runs_are_measured_in_turns_long_ones_once_and_the_longest_not() -> None:
    assert turns([0.5, 30.0, 100.0, None, 9.0], 3) == [[0, 4, 1], [0, 4], [0, 4]]


def test_the_speedup_is_the_chosen_cut_s_over_the_master_alone() -> None:
    points = [Point(0, 1.0, (0.5, 0.6, 0.4)), Point(1, 80.0), Point(2, 2.0, (3.0, 3.0, 3.0))]
    found = curve_json("17.5mbit", points, 0)
    assert (found["k_chosen"], found["k_best"], found["chosen_is_best"]) == (0, 0, True)
    assert found["speedup"] == pytest.approx(6.0)
    assert found["cuts"][1] == {"k": 1, "predicted_s": 80.0, "measured_s": None, "runs": 0}
    worse = curve_json("17.5mbit", points, 2)
    assert (worse["speedup"], worse["chosen_is_best"]) == (1.0, False)
    assert worse["best_speedup"] == pytest.approx(6.0)


def test_a_chosen_cut_that_is_level_with_the_best_counts_as_it() -> None:
    level = [Point(0, 1.0, (1.0, 1.1, 1.2, 1.3)), Point(1, 1.0, (1.05, 1.12, 1.25, 1.3))]
    apart = [Point(0, 1.0, (1.0, 1.1, 1.2, 1.3)), Point(1, 1.0, (2.0, 2.1, 2.2, 2.3))]
    assert curve_json("1mbit", level, 1)["chosen_is_best"]
    assert not curve_json("1mbit", apart, 1)["chosen_is_best"]


def test_the_picture_has_what_was_measured() -> None:
    found = as_curve(1e6, [Point(0, 1.0, (0.5,)), Point(1, 2.0)])
    assert found.seconds == (0.5, 2.0) and found.fastest == 0


def test_the_share_is_the_first_answers_time_of_the_time_that_the_weights_take() -> None:
    answers = [[2.0, 1.0, 0], [3.0, 1.0, 0], [6.0, 0.5, 4], [11.0, 0.2, 9]]
    measured = {"answers": answers, "landed_s": [1.0, 5.0, 10.0], "difference": 0.0}
    found = summary("net", (0.05, 0.5), Rate.parse("17.5mbit"), [[1.0, 0], [0.5, 4], [0.2, 5]], measured)
    assert found["share"] == pytest.approx(0.2)
    assert (found["answers_before_all"], found["landed_s"]) == (3, [5.0, 10.0])
    assert [each["at_s"] for each in turning_points(found["answers"])] == [2.0, 6.0, 11.0]
    assert [each["at_s"] for each in turning_points(found["answers"][:2])] == [2.0, 3.0]
