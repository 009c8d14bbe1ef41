"""Predictors learn what they are shown, and are scored on what they were not."""

from __future__ import annotations

import math

import pytest

from fogconv.errors import InputError
from fogconv.hardware.latency_models import FITS, Sample, Score, compare, fit, random_convs, score
from fogconv.hardware.topology import kernel_class
from fogconv.ir.geometry import ConvSpec

SPECS = random_convs(120, seed=5)
LINEAR = [Sample(spec, spec.macs * 2e-11 + 1e-6) for spec in SPECS]
"""A device on which every MAC takes the same time."""


@pytest.mark.parametrize("name", list(FITS))
def test_every_predictor_predicts_every_layer(name: str) -> None:
    predictor = fit(name, LINEAR[:40])
    assert predictor.name == name
    for spec in (
        *SPECS,
        ConvSpec(3, 7, 5, 9, (1, 5)),
        ConvSpec(2048, 1000, 1, 1, (1, 1)),
        ConvSpec(6, 4, 5, 5, (3, 3), groups=2),
    ):
        seconds = predictor.seconds(spec)
        assert seconds > 0 and math.isfinite(seconds)


def test_gamma_is_found_again() -> None:
    assert compare(LINEAR[:80], LINEAR[80:], ["macs"])["macs"].within_10pct > 0.95


def test_a_regression_finds_a_power_law() -> None:
    dense = [spec for spec in random_convs(300) if kernel_class(spec) in ("winograd", "direct")]
    samples = [Sample(spec, 1e-9 * spec.in_channels**0.7 * spec.out_channels**0.9) for spec in dense]
    assert compare(samples[:100], samples[100:], ["regression"])["regression"].mape < 0.01


def test_the_mean_knows_what_it_saw_and_no_more() -> None:
    seen = fit("mean", [Sample(SPECS[0], 1.0), Sample(SPECS[0], 3.0), Sample(SPECS[1], 10.0)])
    assert seen.seconds(SPECS[0]) == 2.0


@pytest.mark.parametrize("name", ["forest", "boosted"])
def test_trees_learn_what_a_device_loses_to_its_load(name: str) -> None:
    samples = [Sample(s.spec, s.seconds * (1 + 3 * load), load) for s in LINEAR for load in (0.0, 0.5, 1.0)]
    predictor = fit(name, samples)
    idle, busy = (predictor.seconds(SPECS[3], load) for load in (0.0, 1.0))
    assert busy > 2 * idle


def test_random_convs_are_seeded_and_of_every_class() -> None:
    assert random_convs(50, seed=1) == random_convs(50, seed=1) != random_convs(50, seed=2)
    assert {kernel_class(spec) for spec in random_convs(200)} >= {"direct1x1", "winograd", "direct", "depthwise", "first"}
    assert all(spec.macs <= 1_000_000 for spec in random_convs(20, most_macs=1_000_000))


def test_a_score_counts_layers_within_ten_percent() -> None:
    class Constant:
        name = "constant"

        def seconds(self, spec: ConvSpec, load: float = 0.0) -> float:
            return 1.0

    held_out = [Sample(SPECS[0], 1.0), Sample(SPECS[1], 1.05), Sample(SPECS[2], 2.0), Sample(SPECS[3], 0.5)]
    assert score(Constant(), held_out) == Score(0.5, pytest.approx((0 + 0.05 / 1.05 + 0.5 + 1.0) / 4))


def test_unknown_predictors_and_no_samples_are_refused() -> None:
    with pytest.raises(InputError, match="forest"):
        fit("forrest", LINEAR)
    with pytest.raises(InputError, match="no sample"):
        fit("macs", [])
