"""Predictors learn what they are shown, and are scored on what they were not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fogconv.calibration.sample_sizes import random_convs, random_maps
from fogconv.errors import InputError
from fogconv.hardware.latency.predictors import FITS, Score, choose, compare, fit, judge, score
from fogconv.hardware.latency.samples import DeviceLoad, Sample
from fogconv.hardware.topology import kernel_class
from fogconv.ir.geometry import ConvSpec, MapSpec, StepSpec

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
    dense = [spec for spec in random_convs(600) if kernel_class(spec) in ("winograd", "direct")]
    dense.sort(key=lambda spec: spec.macs)
    samples = [Sample(spec, 1e-9 * spec.in_channels**0.7 * spec.out_channels**0.9) for spec in dense]
    known = [*samples[::3], *samples[-3:]]  # the smallest and the largest among them: beyond these it is not asked
    assert compare(known, samples[1::3], ["regression"])["regression"].mape < 0.01


def test_the_mean_knows_what_it_saw_and_no_more() -> None:
    seen = fit("mean", [Sample(SPECS[0], 1.0), Sample(SPECS[0], 3.0), Sample(SPECS[1], 10.0)])
    assert seen.seconds(SPECS[0]) == 2.0


@pytest.mark.parametrize("name", ["forest", "boosted"])
def test_trees_learn_what_a_device_loses_to_its_load(name: str) -> None:
    samples = [Sample(s.spec, s.seconds * (1 + 3 * cpu), DeviceLoad(cpu)) for s in LINEAR for cpu in (0.0, 0.5, 1.0)]
    predictor = fit(name, samples)
    idle, busy = (predictor.seconds(SPECS[3], DeviceLoad(cpu)) for cpu in (0.0, 1.0))
    assert busy > 2 * idle


def test_a_score_counts_layers_within_ten_percent() -> None:
    class Constant:
        name = "constant"

        def seconds(self, spec: StepSpec, load: DeviceLoad = DeviceLoad()) -> float:
            return 1.0

    held_out = [Sample(SPECS[0], 1.0), Sample(SPECS[1], 1.05), Sample(SPECS[2], 2.0), Sample(SPECS[3], 0.5)]
    found = score(Constant(), held_out)
    assert found == Score(
        0.5, pytest.approx((0 + 0.05 / 1.05 + 0.5 + 1.0) / 4), pytest.approx((1.05 * 2 * 2) ** 0.25), 2.0, found.types
    )
    assert set(found.types) == {kernel_class(spec) for spec in SPECS[:4]} and min(found.types.values()) >= 1.0


@pytest.mark.parametrize("name", list(FITS))
def test_no_predictor_is_asked_beyond_the_sizes_that_it_saw(name: str) -> None:
    """A class's mean, or a power law fitted to noise, says nothing about a layer a hundred times larger."""
    rng = np.random.default_rng(3)
    small = random_convs(120, seed=2, most_macs=5_000_000)
    predictor = fit(name, [Sample(spec, 2e-11 * spec.macs + 1e-5 * rng.lognormal(0, 0.5)) for spec in small])
    large = ConvSpec(512, 512, 14, 14, (3, 3), padding=(1, 1, 1, 1))
    assert predictor.seconds(large) == pytest.approx(2e-11 * large.macs, rel=0.4)


@pytest.mark.parametrize("name", ["macs", "regression", "forest", "boosted"])
def test_every_type_of_step_is_learnt(name: str) -> None:
    """A pool, a sum, a channel shuffle: each kind has a rate of its own, which convs do not have."""
    rates = {kind: (1 + number) * 1e-10 for number, kind in enumerate(sorted({spec.kind for spec in random_maps(20)}))}
    maps = [Sample(spec, 1e-6 + spec.touched * rates[spec.kind]) for spec in random_maps(400, seed=1)]
    scores = compare([*LINEAR, *maps[:300]], maps[300:], [name])[name]
    assert set(scores.types) == set(rates)
    assert scores.factor < 1.35, scores.types


def test_an_unknown_kind_of_step_is_priced_like_the_known_ones() -> None:
    predictor = fit("macs", [Sample(spec, 1e-9 * spec.touched) for spec in random_maps(40)])
    assert predictor.seconds(MapSpec("tanh", 256, 28, 28)) == pytest.approx(1e-9 * 2 * 256 * 28 * 28, rel=0.2)


def test_the_chosen_one_is_not_far_off_anywhere() -> None:
    near, far = Score(0.5, 0.1, 1.2, 1.5, {}), Score(0.9, 0.05, 1.05, 9.0, {})
    assert choose([{"far": far, "near": near}]) == "near"
    assert choose([{"far": far, "near": Score(0.5, 0.1, 1.2, 9.0, {})}]) == "far"


def test_all_judges_are_held_out_once() -> None:
    seen = judge(LINEAR[:60], LINEAR[60:], ["macs", "mean"])
    assert sum(1 for _ in seen) == 2
    assert seen["mean"].factor > 1.5 > seen["macs"].factor


def test_unknown_predictors_and_no_samples_are_refused() -> None:
    with pytest.raises(InputError, match="forest"):
        fit("forrest", LINEAR)
    with pytest.raises(InputError, match="no sample"):
        fit("macs", [])
