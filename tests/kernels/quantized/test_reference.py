"""The reference of the 8-bit kernels against sums written out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fogconv.errors import KernelError
from fogconv.ir.geometry import ConvSpec, PoolSpec
from fogconv.kernels.quantized import reference
from fogconv.kernels.quantized.numbers import Scale, Target, multiplier, multipliers

RNG = np.random.default_rng(7)


def test_conv_sums_are_exact_and_padding_adds_nothing() -> None:
    spec = ConvSpec(6, 4, 5, 4, (3, 2), (2, 1), (1, 0, 0, 1), (1, 2), groups=2)
    x = RNG.integers(0, 256, spec.input_shape, np.uint8)
    w = RNG.integers(-127, 128, spec.weight_shape, np.int8)
    found = reference.conv_sums(spec, x, w, 77)
    for f in range(4):
        for r in range(spec.out_height):
            for c in range(spec.out_width):
                total = 0
                for k in range(3):
                    for i in range(3):
                        for j in range(2):
                            row, column = 2 * r + i - 1, c + 2 * j
                            if 0 <= row < 5 and 0 <= column < 4:
                                total += (int(x[0, 3 * (f // 2) + k, row, column]) - 77) * int(w[f, k, i, j])
                assert found[0, f, r, c] == total


def test_requantising_rounds_halves_to_even_and_clamps() -> None:
    sums = np.array([[1, 3, 5, -1, -3, 2000, -2000]], np.int32).reshape(7, 1)
    bias = np.array([0], np.int32)
    found = reference.requantise(sums, bias, np.array([0.5], np.float32), Target(10, 8, 250))
    assert found.ravel().tolist() == [10, 12, 12, 10, 8, 250, 8]


def test_a_float_becomes_a_byte() -> None:
    x = np.array([0.25, -0.25, 0.75, 1e30, -1e30, np.inf, -np.inf, np.nan], np.float32)
    assert reference.quantise(x, Scale(0.5, 3)).tolist() == [3, 3, 5, 255, 0, 255, 0, 0]
    assert reference.dequantise(np.array([3, 5], np.uint8), Scale(0.5, 3)).tolist() == [0.0, 1.0]


def test_an_average_divides_by_what_torch_counts() -> None:
    spec = PoolSpec("avg", 1, 2, 2, (2, 2), (1, 1), (1, 0, 1, 0), count_include_pad=False)
    x = np.array([[[[110, 120], [130, 140]]]], np.uint8)
    found = reference.average_pool(spec, x, 100, 1.0, Target(0))
    assert found[0, 0].tolist() == [[10, 15], [20, 25]]


def test_scales_multiply_in_float64() -> None:
    found = multipliers(0.1, [0.3, 0.7], 0.9)
    assert found.tolist() == [np.float32(0.1 * 0.3 / 0.9), np.float32(0.1 * 0.7 / 0.9)]


def test_a_ratio_of_scales_must_be_finite() -> None:
    assert multiplier(0.5, 3.0, over=2.0) == np.float32(0.75)
    with pytest.raises(KernelError, match="float32 has no such number"):
        multiplier(1e30, 1e30)
    with pytest.raises(KernelError, match="float32 has no such number"):
        multipliers(1.0, [1.0, 1e30], over=1e-30)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 1e-60])
def test_a_scale_must_be_above_zero(scale: float) -> None:
    with pytest.raises(KernelError, match="above 0"):
        Scale(scale, 0)


def test_a_map_of_another_type_is_refused() -> None:
    with pytest.raises(KernelError, match="uint8"):
        reference.table(np.zeros(3, np.float32), np.zeros(256, np.uint8))
