"""A picture as bytes is exactly the one that was normalised; what is no such picture is sent as it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogconv.errors import KernelError
from fogconv.kernels.maps.pixels import PixelTables
from fogconv.zoo.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

SETS = ((IMAGENET_MEAN, IMAGENET_STD), ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))


@pytest.mark.parametrize(("mean", "std"), SETS)
def test_every_byte_of_a_preprocessed_picture_comes_back_to_the_bit(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    levels[..., 1] = levels[::-1, ::-1, 1]
    x = Preprocessing((16, 16), 16, mean, std)(levels)
    payload = np.ascontiguousarray(x.transpose(1, 2, 0)).ravel()  # a pixel's channels together
    tables = PixelTables(mean, std)
    coded = tables.encode(payload)
    assert coded is not None and len(coded) == payload.size
    assert bytes(coded) == levels.tobytes()
    assert np.array_equal(tables.decode(np.frombuffer(coded, np.uint8)), payload)


@given(st.integers(0, 299), st.sampled_from([np.nan, np.inf, -np.inf, 1e30, 0.123, -5.0]))
def test_one_value_that_is_no_byte_is_enough(at: int, value: float) -> None:
    tables = PixelTables(IMAGENET_MEAN, IMAGENET_STD)
    payload = tables.decode(np.random.default_rng(0).integers(0, 256, 300, dtype=np.uint8))
    assert tables.encode(payload) is not None
    payload[at] = value
    assert tables.encode(payload) is None


WRONG = (((), ()), ((0.5,), (0.0,)), ((0.5,), (1.0, 1.0)), ((np.nan,), (1.0,)), ((0.0,) * 17, (1.0,) * 17))


@pytest.mark.parametrize(("mean", "std"), WRONG)
def test_impossible_figures_are_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(KernelError, match="pixels"):
        PixelTables(mean, std)
