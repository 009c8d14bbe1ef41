"""Latency predictors behind one interface: seconds of one step (a fused conv, a pool, a sum, …) on one device.

macs        γ·MACs, γ per type of step, plus the fixed cost of a step; of steps other than convs, elements through memory
mean        the historical mean: of the same step, or else of its type
regression  Neurosurgeon (Kang et al. 2017): a regression per type of step over its sizes, fitted by logarithms
forest      a random forest over the sizes of a fused kernel, as in nn-Meter (Zhang et al. 2021), with the device's load
            as features, as in PerDNN (Jeong et al. 2020); needs scikit-learn
boosted     the same features in gradient-boosted trees, which are more accurate with few samples; needs scikit-learn

All learn from the same samples, so that they can be compared; the first three need numpy only. None is asked beyond the
sizes that it saw of a type: there `fit` gives what macs says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fogconv.errors import DependencyError, InputError, unknown, with_extra
from fogconv.hardware.latency.features import amount, computed, features, sizes, step_type
from fogconv.hardware.latency.samples import IDLE, DeviceLoad, Sample
from fogconv.ir.geometry import ConvSpec, StepSpec

BEYOND = 1.25
"""A predictor is asked up to this factor beyond the amounts of work that it saw of a type."""
MOST_OFF = 2.0
"""A predictor that is off by more than this factor for a step of a net is not chosen, if another one is not."""


class Predictor(Protocol):
    """``fit`` returns a fitted predictor. ``seconds`` never fails for a valid spec, seen or not."""

    @property
    def name(self) -> str: ...
    def seconds(self, spec: StepSpec, load: DeviceLoad = IDLE) -> float: ...


@dataclass(frozen=True, slots=True)
class Macs:
    """γ·amount + a step."""

    gamma: dict[str, float]
    step_s: float
    name: str = "macs"

    @staticmethod
    def fit(samples: Sequence[Sample]) -> Macs:
        """γ is the median over the larger half of a type, where the fixed cost weighs little, so that one outlier does not
        change it. The step is what all types have in common."""
        step = _step_s(samples)
        gamma = {kind: _gamma(members, step) for kind, members in _by_type(samples).items()}
        for group in (True, False):
            alike = [sample for sample in samples if isinstance(sample.spec, ConvSpec) == group]
            gamma |= {_default(group): _gamma(alike or samples, step)}
        return Macs(gamma, step)

    def seconds(self, spec: StepSpec, load: DeviceLoad = IDLE) -> float:
        gamma = self.gamma.get(step_type(spec), self.gamma[_default(isinstance(spec, ConvSpec))])
        return amount(spec) * gamma + self.step_s


@dataclass(frozen=True, slots=True)
class HistoricalMean:
    """The mean time of the same step; an unknown one gets its type's mean."""

    seen: dict[StepSpec, float]
    types: dict[str, float]
    name: str = "mean"

    @staticmethod
    def fit(samples: Sequence[Sample]) -> HistoricalMean:
        times: dict[StepSpec, list[float]] = {}
        for sample in samples:
            times.setdefault(sample.spec, []).append(sample.seconds)
        types = {kind: float(np.mean([member.seconds for member in members])) for kind, members in _by_type(samples).items()}
        overall = float(np.mean([sample.seconds for sample in samples]))
        return HistoricalMean({spec: float(np.mean(found)) for spec, found in times.items()}, {**types, "default": overall})

    def seconds(self, spec: StepSpec, load: DeviceLoad = IDLE) -> float:
        return self.seen.get(spec, self.types.get(step_type(spec), self.types["default"]))


@dataclass(frozen=True, slots=True)
class Regression:
    """log(seconds) is linear in the logarithms of a step's sizes, with separate coefficients for each type."""

    coefficients: dict[str, NDArray[np.float64]]
    fallback: Macs
    name: str = "regression"

    @staticmethod
    def fit(samples: Sequence[Sample]) -> Regression:
        coefficients = {}
        for kind, members in _by_type(samples).items():
            inputs = np.array([sizes(sample.spec) for sample in members])
            if len(members) < 2 * inputs.shape[1]:
                continue
            # A small ridge term, because kernel and stride may be the same in all samples of a type.
            design = np.vstack([inputs, 1e-3 * np.eye(inputs.shape[1])])
            target = np.concatenate([np.log([sample.seconds for sample in members]), np.zeros(inputs.shape[1])])
            coefficients[kind] = np.linalg.lstsq(design, target, rcond=None)[0]
        return Regression(coefficients, Macs.fit(samples))

    def seconds(self, spec: StepSpec, load: DeviceLoad = IDLE) -> float:
        found = self.coefficients.get(step_type(spec))
        if found is None:
            return self.fallback.seconds(spec)
        return float(np.exp(np.clip(sizes(spec) @ found, -25, 10)))


@dataclass(frozen=True, slots=True)
class Trees:
    """Decision trees for the logarithm of seconds per computed amount, so that predictions scale with the step: one
    ensemble for convs, one for all other steps (None where there was no sample)."""

    name: str
    of_convs: Any
    of_maps: Any
    fallback: Macs

    @staticmethod
    def forest(samples: Sequence[Sample]) -> Trees:
        """Raises DependencyError without scikit-learn."""
        ensemble = _sklearn_ensemble()
        return Trees.fit("forest", lambda: ensemble.RandomForestRegressor(200, max_features=0.5, random_state=0), samples)

    @staticmethod
    def boosted(samples: Sequence[Sample]) -> Trees:
        """Raises DependencyError without scikit-learn."""
        ensemble = _sklearn_ensemble()

        def boosting() -> Any:
            return ensemble.GradientBoostingRegressor(
                n_estimators=400, max_depth=5, learning_rate=0.05, subsample=0.6, random_state=0
            )

        return Trees.fit("boosted", boosting, samples)

    @staticmethod
    def fit(name: str, model: Callable[[], Any], samples: Sequence[Sample]) -> Trees:
        """``model`` makes an estimator of scikit-learn."""

        def fitted(members: list[Sample]) -> Any:
            if not members:
                return None
            rates = np.log([sample.seconds / computed(sample.spec) for sample in members])
            return model().fit(np.array([features(sample.spec, sample.load) for sample in members]), rates)

        convs = [sample for sample in samples if isinstance(sample.spec, ConvSpec)]
        maps = [sample for sample in samples if not isinstance(sample.spec, ConvSpec)]
        return Trees(name, fitted(convs), fitted(maps), Macs.fit(samples))

    def seconds(self, spec: StepSpec, load: DeviceLoad = IDLE) -> float:
        model = self.of_convs if isinstance(spec, ConvSpec) else self.of_maps
        if model is None:
            return self.fallback.seconds(spec)
        return float(math.exp(model.predict(features(spec, load)[None])[0]) * computed(spec))


def _sklearn_ensemble() -> Any:
    try:
        from sklearn import ensemble
    except ImportError as error:
        raise DependencyError(f"scikit-learn is not installed: {with_extra('model')}") from error
    return ensemble


@dataclass(frozen=True, slots=True)
class WithinRange:
    """A predictor that is asked only within the amounts of work that it saw of each type: ``ranges``, least and most.

    A mean, a power law or a tree does not know what is a hundred times larger; γ·MACs does.
    """

    inner: Predictor
    beyond: Macs
    ranges: dict[str, tuple[float, float]]

    @property
    def name(self) -> str:
        return self.inner.name

    def seconds(self, spec: StepSpec, load: DeviceLoad = IDLE) -> float:
        least, most = self.ranges.get(step_type(spec), (math.inf, 0.0))
        asked = self.inner if least / BEYOND <= amount(spec) <= most * BEYOND else self.beyond
        return asked.seconds(spec, load)


FITS: dict[str, Callable[[Sequence[Sample]], Predictor]] = {
    "macs": Macs.fit,
    "mean": HistoricalMean.fit,
    "regression": Regression.fit,
    "forest": Trees.forest,
    "boosted": Trees.boosted,
}
"""Every predictor by name."""


def check_predictor(name: str) -> None:
    """Raises InputError for an unknown name."""
    if name not in FITS:
        raise InputError(unknown("predictor", name, FITS))


def fit(name: str, samples: Sequence[Sample]) -> Predictor:
    """Raises InputError for an unknown name or no samples, DependencyError where a library is missing."""
    check_predictor(name)
    if not samples:
        raise InputError(f"predictor {name}: there is no sample to learn from")
    ranges = {}
    for kind, members in _by_type(samples).items():
        amounts = [amount(member.spec) for member in members]
        ranges[kind] = (min(amounts), max(amounts))
    return WithinRange(FITS[name](samples), Macs.fit(samples), ranges)


@dataclass(frozen=True, slots=True)
class Score:
    """``within_10pct``: the share of steps predicted within 10 %. ``mape``: mean absolute percentage error, as a share.
    ``factor``: the mean factor by which predictions are off, too long or too short (1: right); ``worst``: the largest.
    ``types``: the mean factor per type of step.
    """

    within_10pct: float
    mape: float
    factor: float
    worst: float
    types: dict[str, float]


def score(predictor: Predictor, held_out: Sequence[Sample]) -> Score:
    """Score a predictor on steps that it was not fitted to."""
    return _score([(s, predictor.seconds(s.spec, s.load)) for s in held_out])


def _score(predicted: Sequence[tuple[Sample, float]]) -> Score:
    errors = [abs(seconds - sample.seconds) / sample.seconds for sample, seconds in predicted]
    types: dict[str, list[float]] = {}
    for sample, seconds in predicted:
        types.setdefault(step_type(sample.spec), []).append(abs(math.log(seconds / sample.seconds)))
    logs = [log for found in types.values() for log in found]
    return Score(
        sum(error <= 0.1 for error in errors) / len(errors),
        float(np.mean(errors)),
        math.exp(float(np.mean(logs))),
        math.exp(max(logs)),
        {kind: math.exp(float(np.mean(found))) for kind, found in types.items()},
    )


def compare(samples: Sequence[Sample], held_out: Sequence[Sample], names: Sequence[str] = tuple(FITS)) -> dict[str, Score]:
    """Every predictor fitted to the samples and scored on the steps held out."""
    return {name: score(fit(name, samples), held_out) for name in names}


def judge(samples: Sequence[Sample], judges: Sequence[Sample], names: Sequence[str] = tuple(FITS)) -> dict[str, Score]:
    """Every predictor scored on all ``judges``, half of which it is fitted to, with the samples, when it is asked for the
    other half: so it is not judged beyond the sizes that it will know."""
    halves = (judges[::2], judges[1::2])
    scores = {}
    for name in names:
        predicted: list[tuple[Sample, float]] = []
        for known, asked in (halves, halves[::-1]):
            predictor = fit(name, [*samples, *known])
            predicted += [(sample, predictor.seconds(sample.spec, sample.load)) for sample in asked]
        scores[name] = _score(predicted)
    return scores


def choose(scores: Sequence[dict[str, Score]]) -> str:
    """The name of the predictor that is off by the least factor, over all devices, each of which has its scores.

    Not one that is off by more than MOST_OFF for any step, if there is another.
    """

    def key(name: str) -> tuple[bool, float]:
        worst = max(each[name].worst for each in scores)
        return worst > MOST_OFF, math.prod(each[name].factor for each in scores)

    return min(scores[0], key=key)


def _by_type(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    types: dict[str, list[Sample]] = {}
    for sample in samples:
        types.setdefault(step_type(sample.spec), []).append(sample)
    return types


def _step_s(samples: Sequence[Sample]) -> float:
    """The fixed cost for which a rate per type is off by the least share, by least squares; half the shortest sample's time
    where that makes no sense."""
    types = {kind: number for number, kind in enumerate(_by_type(samples))}
    shares = np.zeros((len(samples), len(types) + 1))
    for row, sample in zip(shares, samples, strict=True):
        row[types[step_type(sample.spec)]] = amount(sample.spec) / sample.seconds
        row[-1] = 1 / sample.seconds
    scale = np.maximum(np.abs(shares).max(axis=0), 1e-300)
    found = float(np.linalg.lstsq(shares / scale, np.ones(len(samples)), rcond=None)[0][-1] / scale[-1])
    seconds = [sample.seconds for sample in samples]
    return found if 0 < found < float(np.median(seconds)) else min(seconds) / 2


def _gamma(samples: Sequence[Sample], step_s: float) -> float:
    """Seconds per amount."""
    larger = sorted(samples, key=lambda sample: amount(sample.spec))[len(samples) // 2 :]
    rates = [max(each.seconds - step_s, each.seconds / 4) / amount(each.spec) for each in larger]
    return float(np.median(rates))


def _default(convs: bool) -> str:
    return "default" if convs else "default map"
