"""Precisions: 0 is exact, and the range is covered."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogconv.ir.precision.elements import HALVES, WEIGHT_BYTES, WEIGHTS_OF, Half, element_of, weight_type
from fogconv.ir.precision.scale import FP32, LEAST_STEP, SUMS, Precision, in_fp32, uint8

reals = st.floats(-1e6, 1e6, width=32)


@given(reals, reals)
def test_a_range_is_covered_to_half_a_step(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    found = uint8(low, high)
    assert found.quantized and found.bytes == 1 and found.scale == in_fp32(found.scale)
    least, most = found.bounds
    assert least - 0.51 * found.scale <= min(low, 0.0) and max(high, 0.0) <= most + 0.51 * found.scale


def test_a_map_of_zeros_has_a_scale() -> None:
    assert uint8(0.0, 0.0) == Precision("uint8", in_fp32(LEAST_STEP), 0)


@pytest.mark.parametrize(("scale", "zero"), [(0.0, 0), (-1.0, 0), (math.nan, 0), (math.inf, 0), (1.0, 256), (1.0, -1)])
def test_impossible_numbers_are_refused(scale: float, zero: int) -> None:
    with pytest.raises(ValueError, match="describe no 8-bit map"):
        Precision("uint8", scale, zero)
    assert (FP32.bytes, SUMS.bytes) == (4, 4)


@pytest.mark.parametrize("half", HALVES)
def test_elements_of_16_bits_are_summed_in_fp32_and_known_by_their_arrays(half: Half) -> None:
    precision = Precision(half)
    assert precision.bytes == 2 and precision.is_half and precision.sums == FP32 and not precision.quantized
    kind = WEIGHTS_OF[half]
    array = np.zeros(3, kind)
    assert element_of(array) == half and weight_type(array) == kind and WEIGHT_BYTES[kind] == 2
    assert uint8(0.0, 1.0).sums == SUMS and not FP32.is_half


def test_an_infinite_range_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        uint8(0.0, math.inf)
