"""Elementwise kernels against float64, on parts of larger buffers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.errors import KernelError
from fogconv.kernels import reference
from fogconv.kernels.codegen.formulas import FORMULAS
from fogconv.kernels.maps import elementwise
from fogconv.kernels.maps.blocked import Blocked
from tests.kernels.random_maps import Surroundings, Untouched, pack, place, random, surroundings, unpack

ACTIVATIONS = (
    None, "relu", "relu6", "silu", "hardswish", "sigmoid", "hardsigmoid", "leaky_relu(0.1)", "clip(-1.0, 2.5)", "gelu(0.5)",
    "gelu_tanh", "elu(1.5, 1.0, 1.0)", "swish(1.702)", "mish", "softplus(2.0, 20.0)", "log_sigmoid", "softsign", "tanh",
    "erf", "hard_sigmoid(0.2, 0.4)", "hard_gate(1.0, 3.0, 6.0)", "abs", "floor", "ceil", "round",
)  # fmt: skip
CANCELS = ("gelu(0.5)", "gelu_tanh", "swish(1.702)")
"""Their tails below 0 are exact to parts of 1 and not of the result: of exp's argument, or of 1 + erf, as in torch."""
shapes = st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 5), st.integers(1, 5))
seeds = st.integers(0, 2**31)


@settings(deadline=None, max_examples=50)
@given(shapes, st.lists(surroundings, min_size=5, max_size=5), st.sampled_from(ACTIVATIONS), st.integers(1, 4), seeds)
def test_add_sums_and_activates(
    shape: tuple[int, int, int, int], around: list[Surroundings], activation: str | None, count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = [random(rng, *shape) for _ in range(count)]
    sources = [place(x, a, rng) for x, a in zip(values, around, strict=False)]
    out = place(random(rng, *shape), around[4], rng)
    untouched = Untouched(out)
    elementwise.bind_add(sources, out, activation)()
    expected = reference.activate(np.sum(values, axis=0, dtype=np.float64), activation)
    np.testing.assert_allclose(unpack(out), expected, rtol=2e-6, atol=2e-6)
    assert untouched.outside_is_unchanged()


@settings(deadline=None, max_examples=50)
@given(
    shapes,
    st.lists(surroundings, min_size=3, max_size=3),
    st.sampled_from(ACTIVATIONS),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    seeds,
)
def test_affine_scales_shifts_adds_and_activates(
    shape: tuple[int, int, int, int],
    around: list[Surroundings],
    activation: str | None,
    given_: tuple[bool, bool, bool],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    x, residual = random(rng, *shape), random(rng, *shape) if given_[2] else None
    scale = random(rng, shape[1]) if given_[0] else None
    shift = random(rng, shape[1]) if given_[1] else None
    out = place(random(rng, *shape), around[1], rng)
    untouched = Untouched(out)
    other = place(residual, around[2], rng) if residual is not None else None
    elementwise.bind_affine(place(x, around[0], rng), out, scale, shift, activation, other)()
    expected = x.astype(np.float64)
    if scale is not None:
        expected = expected * scale[:, None, None]
    if shift is not None:
        expected = expected + shift[:, None, None]
    if residual is not None:
        expected = expected + residual
    np.testing.assert_allclose(unpack(out), reference.activate(expected, activation), rtol=2e-6, atol=2e-6)
    assert untouched.outside_is_unchanged()


@settings(deadline=None, max_examples=30)
@given(shapes, st.lists(surroundings, min_size=3, max_size=3), seeds)
def test_gate_scales_each_channel_of_each_image(
    shape: tuple[int, int, int, int], around: list[Surroundings], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, gate = random(rng, *shape), random(rng, *shape[:2], 1, 1)
    out = place(random(rng, *shape), around[2], rng)
    untouched = Untouched(out)
    elementwise.bind_gate(place(x, around[0], rng), place(gate, around[1], rng), out)()
    np.testing.assert_allclose(unpack(out), x * gate, rtol=1e-6)
    assert untouched.outside_is_unchanged()


@settings(deadline=None, max_examples=100)
@given(shapes, st.integers(0, 40), st.integers(0, 40), st.integers(0, 9), st.booleans(), *[surroundings] * 2, seeds)
def test_channels_are_copied_between_any_two_offsets(
    shape: tuple[int, int, int, int],
    first: int,
    out_first: int,
    after: int,
    accumulate: bool,
    around: Surroundings,
    out_around: Surroundings,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    batch, channels, height, width = shape
    x = random(rng, batch, first + channels + after, height, width)
    x[rng.random(x.shape) < 0.1] = -0.0
    y = random(rng, batch, out_first + channels + after, height, width)
    out = place(y, out_around, rng)
    untouched = Untouched(out)
    elementwise.bind_shift_copy(place(x, around, rng), first, out, out_first, channels, accumulate)()
    expected = y.copy()
    part = x[:, first : first + channels]
    expected[:, out_first : out_first + channels] = y[:, out_first : out_first + channels] + part if accumulate else part
    np.testing.assert_array_equal(unpack(out).view(np.int32), expected.view(np.int32))
    assert untouched.outside_is_unchanged()


@settings(deadline=None, max_examples=30)
@given(shapes, st.booleans(), *[surroundings] * 2, seeds)
def test_copy_keeps_every_bit(
    shape: tuple[int, int, int, int], accumulate: bool, around: Surroundings, out_around: Surroundings, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, y = random(rng, *shape), random(rng, *shape)
    if not accumulate:
        x.view(np.uint32)[...] = rng.integers(0, 2**32, shape, np.uint32)
    out = place(y, out_around, rng)
    elementwise.bind_shift_copy(place(x, around, rng), 0, out, 0, out.channels, accumulate)()
    np.testing.assert_array_equal(unpack(out).view(np.int32), (x + y if accumulate else x).view(np.int32))


@settings(deadline=None, max_examples=30)
@given(shapes, st.integers(1, 40), *[surroundings] * 2, seeds)
def test_permute_picks_single_channels(
    shape: tuple[int, int, int, int], picked: int, around: Surroundings, out_around: Surroundings, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    batch, channels, height, width = shape
    x = random(rng, *shape)
    order = tuple(int(k) for k in rng.integers(0, channels, picked))
    out = place(random(rng, batch, picked, height, width), out_around, rng)
    untouched = Untouched(out)
    elementwise.bind_permute(place(x, around, rng), out, order)()
    np.testing.assert_array_equal(unpack(out), x[:, order])
    assert untouched.outside_is_unchanged()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_exact_to_a_few_ulp_and_keep_nan(activation: str | None) -> None:
    x = np.concatenate(
        [
            np.linspace(-90, 90, 40001),
            np.linspace(-7, 7, 20001),
            [np.inf, -np.inf, np.nan, -0.0, 1e-30, -1e-30, 3e38, -3e38, 87.9, -87.9, 88.7, -88.7],
        ]
    ).astype(np.float32)
    map_ = pack(x.reshape(1, 1, 1, -1))
    with np.errstate(invalid="ignore"):
        expected = reference.activate(x, activation)
    elementwise.bind_affine(map_, map_, activation=activation)()
    found = unpack(map_).ravel()
    finite = np.isfinite(expected)
    ordinary = finite & ((np.abs(expected) > 1e-36) | (expected == 0))
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    # hardswish of 3e38 overflows in torch as it does here.
    same = ordinary & (np.abs(x) < 1e38)
    with np.errstate(invalid="ignore"):
        distance = np.abs(found - expected)
    error = distance[same] / np.spacing(np.abs(expected[same]).astype(np.float32))
    if activation in CANCELS:
        error = np.where(x[same] < 0, distance[same] / 1e-6, error)
    assert error.max() <= 4, f"{error.max()} ulp at {x[same][error.argmax()]}"
    assert distance[finite & ~ordinary].max(initial=0) < 1e-35
    assert np.array_equal(found[np.isinf(expected)], expected[np.isinf(expected)].astype(np.float32))


def test_every_operator_on_one_map_is_among_the_activations() -> None:
    """Those that are not defined everywhere have a test in test_per_element."""
    known = {activation.partition("(")[0] for activation in ACTIVATIONS if activation}
    assert known == {name for name, each in FORMULAS.items() if each.inputs == 1} - {"exp", "log", "sqrt", "reciprocal"}


def test_relu_of_nan_is_nan_as_in_torch() -> None:
    map_ = pack(np.full((1, 1, 1, 1), np.nan, np.float32))
    elementwise.bind_add([map_, map_], map_, "relu")()
    assert np.isnan(unpack(map_)).all()


def test_empty_maps_are_left_alone() -> None:
    empty = Blocked.empty(1, 0, 3, 3)
    elementwise.bind_add([empty, empty], empty, "relu")()
    flat = Blocked.empty(2, 3, 0, 3)
    elementwise.bind_shift_copy(flat, 0, flat, 0, 3)()


def test_bad_input_is_refused_with_the_numbers() -> None:
    x, y = Blocked.empty(1, 20, 4, 4), Blocked.empty(1, 20, 4, 5)
    with pytest.raises(KernelError, match=r"\(1, 20, 4, 5\).*\(1, 20, 4, 4\)"):
        elementwise.bind_add([y, y], x)
    with pytest.raises(KernelError, match="at least one"):
        elementwise.bind_add([], x)
    with pytest.raises(KernelError, match="activation 'tan' is not known"):
        elementwise.bind_affine(x, x, activation="tan")
    with pytest.raises(KernelError, match=r"scale.*\(19,\).*20"):
        elementwise.bind_affine(x, x, np.ones(19, np.float32))
    with pytest.raises(KernelError, match="15 to 25"):
        elementwise.bind_shift_copy(x, 15, x, 0, 10)
    with pytest.raises(KernelError, match="20 channels between 0 and 20"):
        elementwise.bind_permute(x, x, (*range(19), 20))
    with pytest.raises(KernelError, match="gate"):
        elementwise.bind_gate(x, x, x)
    double = Blocked(x.data.astype(np.float64), 20, 4, 4)  # type: ignore[arg-type]
    with pytest.raises(KernelError, match="float64"):
        elementwise.bind_shift_copy(double, 0, x, 0, 20)
    skewed = Blocked(x.data.reshape(-1)[1 : 1 + 16].reshape(1, 1, 1, 1, 16), 1, 1, 1)
    with pytest.raises(KernelError, match="64 bytes"):
        elementwise.bind_shift_copy(skewed, 0, Blocked.empty(1, 1, 1, 1), 0, 1)
    small = Blocked(x.data, 40, 4, 4)
    with pytest.raises(KernelError, match="40 channels"):
        elementwise.bind_shift_copy(small, 0, small, 0, 40)
