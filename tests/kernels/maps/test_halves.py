"""Narrowing rounds to the nearest, halves to even; widening is exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.errors import KernelError
from fogconv.ir.precision.elements import HALVES, WEIGHTS_OF, Half
from fogconv.ir.precision.halves import floats, rounded
from fogconv.kernels.maps.blocked import Blocked, Margin
from fogconv.kernels.maps.halves import bind_narrow, bind_widen
from tests.kernels.random_maps import pack, unpack

EDGES = (
    0.0,
    -0.0,
    1e-8,
    6e-8,
    65504.0,
    65519.0,
    65520.0,
    1e30,
    3.4e38,
    np.inf,
    -np.inf,
    np.nan,
    1e-40,
    1.00390625,
    1.01171875,
)


@pytest.mark.parametrize("half", HALVES)
def test_a_number_becomes_the_nearest_or_the_even_one(half: Half) -> None:
    torch = pytest.importorskip("torch")
    kind = torch.float16 if half == "fp16" else torch.bfloat16
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal(4096) * 10.0 ** rng.integers(-9, 9, 4096), EDGES]).astype(np.float32)
    wanted = torch.from_numpy(x).to(kind).to(torch.float32).numpy()
    assert np.array_equal(floats(rounded(x, half)), wanted, equal_nan=True)


@settings(deadline=None, max_examples=20)
@given(
    st.sampled_from(HALVES),
    st.integers(1, 2),
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(1, 7),
    st.builds(Margin, *[st.integers(0, 2)] * 4),
)
def test_maps_are_narrowed_and_widened_with_their_margins(
    half: Half, batch: int, channels: int, height: int, width: int, margin: Margin
) -> None:
    x = np.random.default_rng(1).standard_normal((batch, channels, height, width)).astype(np.float32)
    x.reshape(-1)[: len(EDGES)] = EDGES[: x.size]
    wide, kind = pack(x, margin), np.dtype(WEIGHTS_OF[half])
    wide.interior[:, -1, :, :, (channels - 1) % 16 + 1 :] = np.nan  # beyond the last channel: must not get into the map
    narrow = Blocked.empty(*x.shape, margin, kind=kind)
    bind_narrow(wide, narrow)()
    assert not narrow.interior[:, -1, :, :, (channels - 1) % 16 + 1 :].any()
    again = Blocked.empty(*x.shape, margin)
    again.data[...] = 7.0
    bind_widen(narrow, again, margin)()
    assert np.array_equal(again.data, floats(narrow.data), equal_nan=True)
    assert np.array_equal(unpack(again), floats(rounded(x, half)), equal_nan=True)


def test_other_maps_are_refused() -> None:
    wide, narrow = Blocked.empty(1, 4, 3, 3), Blocked.empty(1, 4, 3, 3, kind=np.float16)
    with pytest.raises(KernelError, match="16 bits"):
        bind_widen(wide, wide)
    with pytest.raises(KernelError, match="margin"):
        bind_widen(narrow, wide, Margin(1, 1, 1, 1))
    with pytest.raises(KernelError, match="equal"):
        bind_narrow(Blocked.empty(1, 4, 3, 4), narrow)
