"""Elementwise operators against torch in float64, on parts of larger buffers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.errors import KernelError
from fogconv.kernels.codegen.formulas import FORMULAS
from fogconv.kernels.maps.blocked import Blocked
from fogconv.kernels.maps.per_element import bind_elementwise
from tests.graph_reference import ELEMENTWISE
from tests.kernels.random_maps import Surroundings, Untouched, pack, place, random, surroundings, unpack

shapes = st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 5), st.integers(1, 5))


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from(sorted(FORMULAS)),
    shapes,
    st.lists(surroundings, min_size=3, max_size=3),
    st.integers(0, 2**31),
)
def test_an_elementwise_operator_matches_torch(
    op: str, shape: tuple[int, int, int, int], around: list[Surroundings], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = [random(rng, *shape) for _ in range(FORMULAS[op].inputs)]
    parameters = [float(value) for value in random(rng, FORMULAS[op].parameters)]
    sources = [place(x, a, rng) for x, a in zip(values, around, strict=False)]
    out = place(random(rng, *shape), around[2], rng)
    untouched = Untouched(out)
    bind_elementwise(op, sources, out, parameters)()
    expected = ELEMENTWISE[op](*(torch.from_numpy(x).double() for x in values), *parameters)
    np.testing.assert_allclose(unpack(out), expected, rtol=2e-6, atol=2e-6)
    assert untouched.outside_is_unchanged()


def test_leaky_relu_keeps_nan_and_infinity() -> None:
    map_ = pack(np.array([np.nan, np.inf, -np.inf, -0.0], np.float32).reshape(1, 1, 1, 4))
    bind_elementwise("leaky_relu", [map_], map_, (0.5,))()
    np.testing.assert_array_equal(unpack(map_).ravel(), [np.nan, np.inf, -np.inf, 0.0])


def test_maximum_keeps_nan_of_either_side() -> None:
    a, b = (pack(np.array(values, np.float32).reshape(1, 1, 1, 4)) for values in ([np.nan, 1, 2, -1], [1, np.nan, 3, -2]))
    bind_elementwise("maximum", [a, b], a)()
    np.testing.assert_array_equal(unpack(a).ravel(), [np.nan, np.nan, 3, -1])


def test_bad_input_of_an_elementwise_operator_is_refused_with_the_numbers() -> None:
    x, y = Blocked.empty(1, 20, 4, 4), Blocked.empty(1, 20, 4, 5)
    with pytest.raises(KernelError, match="leaky_relu"):
        bind_elementwise("leaky", [x], x)
    with pytest.raises(KernelError, match="takes 1 maps and 1 parameters, not 2 and 0"):
        bind_elementwise("leaky_relu", [x, x], x)
    with pytest.raises(KernelError, match="input 0 has the shape"):
        bind_elementwise("leaky_relu", [y], x, (0.1,))
