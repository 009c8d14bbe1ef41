"""Weights are rounded so that their errors cancel over patches of the input."""

from __future__ import annotations

import numpy as np
import pytest

from fogconv.ir.geometry import ConvSpec
from fogconv.ir.precision.elements import HALVES, Half
from fogconv.ir.precision.halves import LARGEST, floats, rounded
from fogconv.kernels.reference import conv2d
from fogconv.quantization.weights import (
    corrected_bias,
    halves_together,
    has_products,
    integers_of,
    products,
    rounded_together,
)

SPECS = (
    ConvSpec(12, 8, 11, 9, (3, 3), stride=(2, 1), padding=(1, 0, 1, 1)),
    ConvSpec(12, 12, 10, 10, (3, 3), padding=(1, 1, 1, 1), groups=12),
    ConvSpec(12, 8, 10, 10, (3, 3), padding=(2, 2, 2, 2), dilation=(2, 2), groups=2),
    ConvSpec(12, 8, 8, 8, (1, 1)),
)


def alike(spec: ConvSpec) -> np.ndarray:
    """A map whose neighbours, and channels, are alike, as those of pictures are."""
    rng = np.random.default_rng(0)
    base = np.einsum(
        "cd,dhw->chw", rng.standard_normal((spec.in_channels, 3)), rng.standard_normal((3, spec.height, spec.width))
    )
    smooth = base + np.roll(base, 1, 1) + np.roll(base, 1, 2)
    return np.maximum(smooth + 1, 0)[None].astype(np.float32)


@pytest.mark.parametrize("spec", SPECS)
def test_the_errors_of_a_convs_weights_cancel(spec: ConvSpec) -> None:
    weight = np.random.default_rng(1).standard_normal(spec.weight_shape, np.float32)
    x, plain = alike(spec), integers_of(weight, None, 1.0)
    found = rounded_together(weight, plain, products(spec, x))
    assert np.array_equal(found.scales, plain.scales) and found.values.dtype == np.int8
    errors = [np.square(conv2d(x, each.reals - weight, None, spec)).sum() for each in (found, plain)]
    # Nine weights of one channel have few others to make up for their errors.
    assert errors[0] < (0.97 if spec.depthwise else 0.7) * errors[1]


def test_products_are_those_of_all_patches() -> None:
    """Σ (patch · error)² over the map, which is what the conv with the error gives."""
    for spec in SPECS:
        x, error = alike(spec), np.random.default_rng(2).standard_normal(spec.weight_shape)
        rows = error.reshape(spec.groups, spec.out_channels // spec.groups, -1)
        by_products = np.einsum("gfn,gnm,gfm->", rows, products(spec, x).astype(np.float64), rows)
        assert by_products == pytest.approx(np.square(conv2d(x, error, None, spec)).sum(), rel=1e-4)


def test_layers_of_too_many_inputs_and_maps_of_zeros() -> None:
    assert has_products(SPECS[0]) and not has_products(ConvSpec(512, 8, 7, 7, (3, 3)))
    spec, weight = SPECS[0], np.ones(SPECS[0].weight_shape, np.float32)
    plain = integers_of(weight, None, 1.0)
    nothing = products(spec, np.zeros(spec.input_shape, np.float32))
    assert np.array_equal(rounded_together(weight, plain, nothing).values, plain.values)


def floats_of(values: np.ndarray, half: Half) -> np.ndarray:
    return floats(rounded(values, half))


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("spec", SPECS)
def test_the_errors_of_weights_of_16_bits_cancel(spec: ConvSpec, half: Half) -> None:
    weight = np.random.default_rng(1).standard_normal(spec.weight_shape, np.float32)
    x, plain = alike(spec), floats_of(weight, half)
    found = floats(halves_together(weight, half, products(spec, x)))
    assert np.array_equal(floats_of(found, half), found)
    errors = [np.square(conv2d(x, each - weight, None, spec)).sum() for each in (found, plain)]
    assert errors[0] < (0.97 if spec.depthwise else 0.7) * errors[1]


@pytest.mark.parametrize("half", HALVES)
def test_weights_that_are_moved_stay_finite(half: Half) -> None:
    spec = SPECS[3]
    signs = np.where(np.random.default_rng(3).random(spec.weight_shape) < 0.5, -1, 1).astype(np.float32)
    weight = signs * np.float32(LARGEST[half])
    found = floats(halves_together(weight * np.float32(0.9999), half, products(spec, alike(spec))))
    assert np.isfinite(found).all() and np.isfinite(floats_of(weight, half)).all()


@pytest.mark.parametrize("half", HALVES)
def test_a_bias_makes_up_for_what_is_left_on_average(half: Half) -> None:
    spec = SPECS[3]
    weight, bias = (np.random.default_rng(4).standard_normal(size, np.float32) for size in (spec.weight_shape, 8))
    x, reals = alike(spec), floats_of(weight, half)
    moved = corrected_bias(weight, reals, bias, x.mean(axis=(0, 2, 3), dtype=np.float64))
    exact = conv2d(x, weight, bias, spec).mean(axis=(0, 2, 3))
    off = [np.abs(conv2d(x, reals, each, spec).mean(axis=(0, 2, 3)) - exact).max() for each in (moved, bias)]
    assert off[0] < 1e-5 < off[1]
