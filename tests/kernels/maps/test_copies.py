"""Copies of any element type move the same elements as the compiled ones of fp32 do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.errors import KernelError
from fogconv.kernels.maps import copies, elementwise, wire
from fogconv.kernels.maps.blocked import Blocked, Margin

MARGIN = Margin(1, 0, 2, 1)


def filled(kind: Any, batch: int, channels: int, height: int, width: int, seed: int) -> Blocked:
    """Small whole numbers, which every type has."""
    found = Blocked.empty(batch, channels, height, width, MARGIN, kind=kind)
    found.data[...] = np.random.default_rng(seed).integers(0, 100, found.data.shape)
    return found


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([np.uint8, np.int32]),
    st.integers(1, 2),
    st.integers(0, 20),
    st.integers(1, 40),
    st.booleans(),
    st.integers(0, 99),
)
def test_a_payload_is_the_same_as_that_of_floats(
    kind: Any, batch: int, first: int, channels: int, accumulate: bool, seed: int
) -> None:
    shape, size = (batch, first + channels, 3, 5), batch * channels * 15
    one, other = filled(kind, *shape, seed), filled(np.float32, *shape, seed)
    payload, floats = np.zeros(size, kind), np.zeros(size, np.float32)
    wire.bind_extract(one, first, channels, payload)()
    wire.bind_extract(other, first, channels, floats)()
    assert np.array_equal(payload, floats)
    target, expected = filled(kind, *shape, seed + 1), filled(np.float32, *shape, seed + 1)
    wire.bind_inserts(kind, target, first, channels, accumulate)(payload)
    wire.bind_inserts(np.float32, expected, first, channels, accumulate)(floats)
    assert np.array_equal(target.data, expected.data)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([np.uint8, np.int32]), st.integers(0, 20), st.integers(0, 20), st.integers(1, 40), st.booleans())
def test_a_copy_is_the_same_as_that_of_floats(kind: Any, first: int, to: int, channels: int, accumulate: bool) -> None:
    a, b = (filled(each, 1, first + channels, 2, 3, 7) for each in (kind, np.float32))
    x, y = (filled(each, 1, to + channels, 2, 3, 8) for each in (kind, np.float32))
    elementwise.bind_shift_copy(a, first, x, to, channels, accumulate)()
    elementwise.bind_shift_copy(b, first, y, to, channels, accumulate)()
    assert np.array_equal(x.data, y.data)


def test_permuted_channels_are_the_same_as_those_of_floats() -> None:
    order = tuple(np.random.default_rng(1).permutation(37))
    (a, x), (b, y) = ((filled(each, 1, 37, 2, 3, seed) for seed in (1, 2)) for each in (np.uint8, np.float32))
    elementwise.bind_permute(a, x, order)()
    elementwise.bind_permute(b, y, order)()
    assert np.array_equal(x.data, y.data)


def test_what_does_not_fit_is_refused() -> None:
    view = filled(np.uint8, 1, 20, 2, 3, 0)
    with pytest.raises(KernelError, match="does not fit"):
        copies.bind_extract(view, 0, 20, np.zeros(120, np.float32))
    with pytest.raises(KernelError, match="do not lie inside"):
        copies.bind_extract(view, 10, 20, np.zeros(120, np.uint8))
    with pytest.raises(KernelError, match="can't be copied"):
        copies.bind_copy(view, 0, filled(np.int32, 1, 20, 2, 3, 0), 0, 20)
