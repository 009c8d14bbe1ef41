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

POSITIVE = ("log", "sqrt", "reciprocal", "divide")
"""Operators whose last operand must be positive here."""

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
    parameters = [float(value) for value in sorted(np.abs(random(rng, FORMULAS[op].parameters)) + 0.25)]
    if op in POSITIVE:
        values[-1] = np.abs(values[-1]) + 0.01
    sources = [place(x, a, rng) for x, a in zip(values, around, strict=False)]
    out = place(random(rng, *shape), around[2], rng)
    untouched = Untouched(out)
    bind_elementwise(op, sources, out, parameters)()
    expected = ELEMENTWISE[op](*(torch.from_numpy(x).double() for x in values), *parameters)
    np.testing.assert_allclose(unpack(out), expected, rtol=2e-6, atol=2e-6)
    assert untouched.outside_is_unchanged()


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(op for op, each in FORMULAS.items() if each.inputs == 2)),
    st.tuples(st.integers(1, 2), st.sampled_from([2, 16, 33]), st.integers(2, 5), st.integers(2, 5)),
    st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=2, max_size=2),
    st.lists(surroundings, min_size=3, max_size=3),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_operands_of_length_1_along_axes_count_everywhere(
    op: str,
    shape: tuple[int, int, int, int],
    short: list[tuple[bool, bool, bool]],
    around: list[Surroundings],
    constant: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    sizes = [tuple(1 if cut else n for cut, n in zip(axes, shape[1:], strict=True)) for axes in short]
    x, y = random(rng, shape[0], *sizes[0]), random(rng, 1 if constant else shape[0], *sizes[1])
    if op in POSITIVE:
        y = np.abs(y) + 0.01
    whole = tuple(max(pair) for pair in zip(*sizes, strict=True))
    out = place(random(rng, shape[0], *whole), around[2], rng)
    untouched = Untouched(out)
    sources = [place(x, around[0], rng)] + ([] if constant else [place(y, around[1], rng)])
    bind_elementwise(op, sources, out, (), y[0] if constant else None)()
    expected = ELEMENTWISE[op](torch.from_numpy(x).double(), torch.from_numpy(y).double())
    np.testing.assert_allclose(unpack(out), expected, rtol=2e-6, atol=2e-6)
    assert untouched.outside_is_unchanged()


@pytest.mark.parametrize("op", ["exp", "log", "sqrt", "reciprocal"])
def test_functions_that_are_not_finite_everywhere_are_torchs(op: str) -> None:
    many = np.linspace(-87, 88, 20001) if op == "exp" else np.geomspace(1e-38, 3e38, 20001)
    x = np.concatenate([many, [1.0, 0.0, -0.0, -1.0, np.inf, -np.inf, np.nan, 3e-38]])
    map_ = pack(x.astype(np.float32).reshape(1, 1, 1, -1))
    bind_elementwise(op, [map_], map_)()
    exact = ELEMENTWISE[op](torch.from_numpy(x.astype(np.float32)).double()).numpy()
    np.testing.assert_allclose(unpack(map_).ravel(), exact.astype(np.float32), rtol=4e-7, atol=1e-36)


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
