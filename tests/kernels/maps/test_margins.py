"""A margin becomes zeros, whatever was there, and the map inside stays as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.errors import KernelError
from fogconv.kernels.maps.blocked import Blocked, Margin
from fogconv.kernels.maps.margins import bind_margin

margins = st.builds(Margin, *[st.integers(0, 4)] * 4)
sizes = st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 6), st.integers(1, 6))


@settings(deadline=None)
@given(sizes, margins, st.sampled_from((np.float32, np.float16, np.uint16, np.int32)), st.integers(0, 99))
def test_zeros_are_written_around_a_map_of_any_type_and_nothing_in_it(
    size: tuple[int, int, int, int], margin: Margin, kind: Any, seed: int
) -> None:
    check(Blocked.empty(*size, margin, kind=kind), 0, seed)


@settings(deadline=None)
@given(sizes, margins, st.integers(0, 255), st.integers(0, 99))
def test_the_byte_that_stands_for_zero_is_written_around_a_map_of_bytes(
    size: tuple[int, int, int, int], margin: Margin, byte: int, seed: int
) -> None:
    check(Blocked.empty(*size, margin, kind=np.uint8), byte, seed)


def check(x: Blocked, byte: int, seed: int) -> None:
    x.data.view(np.uint8)[...] = np.random.default_rng(seed).integers(0, 256, x.data.view(np.uint8).shape, np.uint8)
    wanted = np.full_like(x.data.view(np.uint8), byte).view(x.data.dtype)
    m = x.margin
    wanted[:, :, m.top : m.top + x.height, m.left : m.left + x.width] = x.interior
    bind_margin(x, byte)()
    assert np.array_equal(x.data.view(np.uint8), wanted.view(np.uint8))


def test_a_narrow_map_is_refused() -> None:
    with pytest.raises(KernelError, match="16"):
        bind_margin(Blocked.empty(1, 3, 6, 6, Margin(1, 1, 1, 1), lanes=4))
