"""Latency predictors behind one interface: seconds of one fused conv (conv + bias + activation) on one device.

macs        γ·MACs, γ per kernel class, plus the fixed cost of a step
mean        the historical mean: of the same layer, or else of its kernel class
regression  Neurosurgeon (Kang et al. 2017): a regression per type of layer over its sizes, fitted by logarithms
forest      a random forest over the fused kernel's sizes, as in nn-Meter (Zhang et al. 2021), with the device's load as a
            feature, as in PerDNN (Jeong et al. 2020); needs scikit-learn
boosted     the same features in gradient-boosted trees, which are more accurate with few samples; needs scikit-learn

All learn from the same samples, so that they can be compared; the first three need numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fogconv.errors import DependencyError, InputError, unknown, with_extra
from fogconv.hardware.topology import KERNEL_CLASSES, kernel_class
from fogconv.ir.geometry import BLOCK, ConvSpec


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement. ``load`` is the device's other work at the time: 0 none, 1 one core's worth of work per core."""

    spec: ConvSpec
    seconds: float
    load: float = 0.0


class Predictor(Protocol):
    """``fit`` returns a fitted predictor. ``seconds`` never fails for a valid spec, seen or not."""

    @property
    def name(self) -> str: ...
    def seconds(self, spec: ConvSpec, load: float = 0.0) -> float: ...


@dataclass(frozen=True, slots=True)
class Macs:
    """γ·MACs + a step."""

    gamma: dict[str, float]
    step_s: float
    name: str = "macs"

    @staticmethod
    def fit(samples: Sequence[Sample]) -> Macs:
        """γ is the median over a class, so that one outlier does not change it. The step is half the shortest sample's
        time."""
        step = min(sample.seconds for sample in samples) / 2
        rates = {kind: _gammas(members, step) for kind, members in _by_class(samples).items()}
        everything = [gamma for found in rates.values() for gamma in found]
        gamma = {kind: float(np.median(found)) for kind, found in rates.items()}
        return Macs({**gamma, "default": float(np.median(everything))}, step)

    def seconds(self, spec: ConvSpec, load: float = 0.0) -> float:
        return spec.macs * self.gamma.get(kernel_class(spec), self.gamma["default"]) + self.step_s


@dataclass(frozen=True, slots=True)
class HistoricalMean:
    """The mean time of the same layer; an unknown layer gets its class's mean."""

    seen: dict[ConvSpec, float]
    classes: dict[str, float]
    name: str = "mean"

    @staticmethod
    def fit(samples: Sequence[Sample]) -> HistoricalMean:
        times: dict[ConvSpec, list[float]] = {}
        for sample in samples:
            times.setdefault(sample.spec, []).append(sample.seconds)
        classes = {
            kind: float(np.mean([member.seconds for member in members])) for kind, members in _by_class(samples).items()
        }
        overall = float(np.mean([sample.seconds for sample in samples]))
        return HistoricalMean(
            {spec: float(np.mean(found)) for spec, found in times.items()}, {**classes, "default": overall}
        )

    def seconds(self, spec: ConvSpec, load: float = 0.0) -> float:
        return self.seen.get(spec, self.classes.get(kernel_class(spec), self.classes["default"]))


@dataclass(frozen=True, slots=True)
class Regression:
    """log(seconds) is linear in the logarithms of a layer's sizes, with separate coefficients for each kernel class."""

    coefficients: dict[str, NDArray[np.float64]]
    fallback: Macs
    name: str = "regression"

    @staticmethod
    def fit(samples: Sequence[Sample]) -> Regression:
        coefficients = {}
        for kind, members in _by_class(samples).items():
            sizes = np.array([_sizes(sample.spec) for sample in members])
            if len(members) < 2 * sizes.shape[1]:
                continue
            # A small ridge term, because kernel and stride may be the same in all samples of a class.
            design = np.vstack([sizes, 1e-3 * np.eye(sizes.shape[1])])
            target = np.concatenate([np.log([sample.seconds for sample in members]), np.zeros(sizes.shape[1])])
            coefficients[kind] = np.linalg.lstsq(design, target, rcond=None)[0]
        return Regression(coefficients, Macs.fit(samples))

    def seconds(self, spec: ConvSpec, load: float = 0.0) -> float:
        found = self.coefficients.get(kernel_class(spec))
        if found is None:
            return self.fallback.seconds(spec)
        return float(np.exp(np.clip(_sizes(spec) @ found, -25, 10)))


@dataclass(frozen=True, slots=True)
class Trees:
    """Decision trees for the logarithm of seconds per computed MAC, so that predictions scale with the layer."""

    name: str
    model: Any

    @staticmethod
    def forest(samples: Sequence[Sample]) -> Trees:
        """Raises DependencyError without scikit-learn."""
        ensemble = _sklearn_ensemble()
        return _trees("forest", ensemble.RandomForestRegressor(200, max_features=0.5, random_state=0), samples)

    @staticmethod
    def boosted(samples: Sequence[Sample]) -> Trees:
        """Raises DependencyError without scikit-learn."""
        model = _sklearn_ensemble().GradientBoostingRegressor(
            n_estimators=400, max_depth=5, learning_rate=0.05, subsample=0.6, random_state=0
        )
        return _trees("boosted", model, samples)

    def seconds(self, spec: ConvSpec, load: float = 0.0) -> float:
        rate = self.model.predict(_features(spec, load)[None])[0]
        return float(math.exp(rate) * _computed_macs(spec))


def _trees(name: str, model: Any, samples: Sequence[Sample]) -> Trees:
    features = np.array([_features(sample.spec, sample.load) for sample in samples])
    model.fit(features, np.log([sample.seconds / _computed_macs(sample.spec) for sample in samples]))
    return Trees(name, model)


def _sklearn_ensemble() -> Any:
    try:
        from sklearn import ensemble
    except ImportError as error:
        raise DependencyError(f"scikit-learn is not installed: {with_extra('model')}") from error
    return ensemble


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
    return FITS[name](samples)


@dataclass(frozen=True, slots=True)
class Score:
    """``within_10pct``: the share of layers predicted within 10 %. ``mape``: mean absolute percentage error, as a share."""

    within_10pct: float
    mape: float


def score(predictor: Predictor, held_out: Sequence[Sample]) -> Score:
    """Score a predictor on layers that it was not fitted to."""
    errors = [abs(predictor.seconds(s.spec, s.load) - s.seconds) / s.seconds for s in held_out]
    return Score(sum(error <= 0.1 for error in errors) / len(errors), float(np.mean(errors)))


def compare(samples: Sequence[Sample], held_out: Sequence[Sample], names: Sequence[str] = tuple(FITS)) -> dict[str, Score]:
    """Every predictor fitted to the samples and scored on the layers held out."""
    return {name: score(fit(name, samples), held_out) for name in names}


def random_convs(count: int, seed: int = 0, *, most_macs: int = 60_000_000) -> tuple[ConvSpec, ...]:
    """Random geometries as CNNs have them, and their shards: any number of channels, odd sizes, every class."""
    rng = np.random.default_rng(seed)
    found: list[ConvSpec] = []
    while len(found) < count:
        spec = _random_conv(rng)
        if spec is not None and spec.macs <= most_macs:
            found.append(spec)
    return tuple(found)


def _random_conv(rng: np.random.Generator) -> ConvSpec | None:
    kind = rng.choice(("1x1", "3x3", "3x3", "3x3s2", "5x5", "1x7", "depthwise", "first"))
    size = int(rng.choice((7, 8, 14, 17, 28, 35, 56, 112, 224)))
    c, f = (round(2 ** rng.uniform(4, 9.5)) for _ in range(2))
    if rng.random() < 0.6:
        c, f = (max(BLOCK, round(channels / BLOCK) * BLOCK) for channels in (c, f))
    kernel = {"1x1": (1, 1), "5x5": (5, 5), "1x7": (1, 7)}.get(kind, (3, 3))
    stride = 2 if kind in ("3x3s2", "first") else int(rng.choice((1, 2))) if kind == "depthwise" else 1
    if kind == "first":
        c, f, size, kernel = 3, int(rng.choice((16, 24, 32, 64))), int(rng.choice((96, 112, 160, 224))), (3, 3)
    groups = c if kind == "depthwise" else 1
    pads = (kernel[0] // 2, kernel[0] // 2, kernel[1] // 2, kernel[1] // 2)
    spec = ConvSpec(c, c if groups > 1 else f, size, size, kernel, (stride, stride), pads, groups=groups)
    return spec if spec.macs > 100_000 else None


def _by_class(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    classes: dict[str, list[Sample]] = {}
    for sample in samples:
        classes.setdefault(kernel_class(sample.spec), []).append(sample)
    return classes


def _gammas(samples: Sequence[Sample], step_s: float) -> list[float]:
    return [max(sample.seconds - step_s, sample.seconds / 4) / sample.spec.macs for sample in samples]


def _sizes(spec: ConvSpec) -> NDArray[np.float64]:
    """Neurosurgeon's inputs: the number of input maps and filters, filter and map sizes, the stride; as logarithms."""
    kh, kw = spec.kernel
    return np.log(
        [
            math.e,
            spec.in_channels / spec.groups,
            spec.out_channels,
            spec.out_height,
            spec.out_width,
            kh * kw,
            spec.stride[0] * spec.stride[1],
        ]
    )


def _blocks(channels: int) -> int:
    return -(-channels // BLOCK)


def _computed_macs(spec: ConvSpec) -> float:
    """MACs with channels rounded up to whole blocks, as the kernels compute them."""
    area = spec.batch * spec.out_height * spec.out_width * spec.kernel[0] * spec.kernel[1]
    if spec.groups > 1:
        return float(area * _blocks(spec.out_channels) * BLOCK * (spec.in_channels // spec.groups))
    depth = spec.in_channels if spec.in_channels < BLOCK else _blocks(spec.in_channels) * BLOCK
    return float(area * depth * _blocks(spec.out_channels) * BLOCK)


def _features(spec: ConvSpec, load: float) -> NDArray[np.float64]:
    """Sizes, memory touched, work per byte, and how blocks of channels and tiles of pixels divide the layer."""
    kh, kw = spec.kernel
    h, w = spec.out_height, spec.out_width
    c, f = spec.in_channels, spec.out_channels
    macs = _computed_macs(spec)
    elements = (spec.weight_elements, spec.input_elements, spec.output_elements)
    logs = [math.log(value) for value in (macs, sum(elements), macs / sum(elements), *elements, h * w)]
    # The last tile of a row and the last group of output blocks are computed in full.
    waste = [math.ceil(w / tile) * tile / w for tile in (4, 6, 7, 8, 9, 14, 28)]
    waste += [math.ceil(f / (BLOCK * blocks)) * BLOCK * blocks / f for blocks in (2, 3)]
    return np.array(
        [
            *logs,
            *waste,
            macs / spec.macs,
            math.log(c / spec.groups * kh * kw),
            c,
            f,
            c % BLOCK,
            f % BLOCK,
            _blocks(c),
            _blocks(f),
            _blocks(f) % 2,
            _blocks(f) % 3,
            h,
            w,
            w % 14,
            w % 8,
            spec.height * spec.width,
            kh * kw,
            kw,
            spec.stride[1],
            (spec.padding[0] + spec.padding[1]) / h,
            load,
            *(1.0 if kernel_class(spec) == kind else 0.0 for kind in KERNEL_CLASSES),
        ]
    )
