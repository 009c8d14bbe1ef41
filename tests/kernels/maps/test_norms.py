"""Norms and operators across channels against torch in float64, on parts of larger buffers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.errors import KernelError
from fogconv.kernels import reference
from fogconv.kernels.maps.across_channels import OPERATORS, bind_across
from fogconv.kernels.maps.blocked import Blocked
from fogconv.kernels.maps.normalize import bind_normalize, bind_squares
from tests.graph_reference import ACROSS
from tests.kernels.random_maps import Surroundings, Untouched, place, random, surroundings, unpack

shapes = st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 5), st.integers(1, 5))
seeds = st.integers(0, 2**31)
PARAMETERS = {"layer_norm": (1e-5,), "lrn": (5.0, 0.3, 0.75, 1.5)}


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(OPERATORS)), shapes, st.lists(surroundings, min_size=2, max_size=2), st.booleans(), seeds)
def test_an_operator_across_channels_matches_torch(
    op: str, shape: tuple[int, int, int, int], around: list[Surroundings], weighted: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # Means far from 0, so that a variance that is not taken about the mean would show.
    x = random(rng, *shape) + np.float32(10.0)
    weights = [random(rng, shape[1]) if weighted and op == "layer_norm" else None for _ in range(2)]
    parameters = PARAMETERS.get(op, ())
    out = place(random(rng, *shape), around[1], rng)
    untouched = Untouched(out)
    bind_across(op, place(x, around[0], rng), out, parameters, *weights)()
    expected = ACROSS[op](torch.from_numpy(x).double(), *parameters).numpy()
    if weights[0] is not None and weights[1] is not None:
        expected = expected * weights[0][:, None, None] + weights[1][:, None, None]
    # A layer norm of one or two channels divides the rounding of x − mean by next to nothing.
    spread = 1.0 if op != "layer_norm" else float(1.0 / np.sqrt(x.astype(float).var(1).min() + 1e-5))
    np.testing.assert_allclose(unpack(out), expected, rtol=5e-6, atol=5e-6 * max(1.0, spread))
    assert untouched.outside_is_unchanged()


@pytest.mark.parametrize("size", [1, 2, 3, 8, 17, 32])
def test_a_window_of_channels_crosses_blocks(size: int) -> None:
    rng = np.random.default_rng(size)
    x = random(rng, 1, 70, 2, 3)
    out = place(random(rng, *x.shape), Surroundings(), rng)
    bind_across("lrn", place(x, Surroundings(), rng), out, (size, 0.9, 0.75, 1.0))()
    expected = ACROSS["lrn"](torch.from_numpy(x).double(), size, 0.9, 0.75, 1.0).numpy()
    np.testing.assert_allclose(unpack(out), expected, rtol=3e-6, atol=1e-6)


def test_softmax_of_large_and_infinite_values_is_torchs() -> None:
    x = np.array([[1e4, -1e4, 88.0], [-np.inf, 0.0, 1.0], [np.nan, 0.0, 1.0]], np.float32).reshape(3, 3, 1, 1)
    out = place(np.zeros_like(x), Surroundings(), np.random.default_rng(0))
    bind_across("softmax", place(x, Surroundings(), np.random.default_rng(0)), out)()
    np.testing.assert_allclose(unpack(out), torch.from_numpy(x).softmax(1).numpy(), rtol=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([(1, 5), (4, 3), (7, 1), (16, 3), (40, 1), (3, 16)]),
    st.tuples(st.integers(1, 2), st.integers(1, 6), st.integers(1, 6)),
    st.lists(surroundings, min_size=5, max_size=5),
    st.sampled_from([None, "relu", "leaky_relu(0.1)"]),
    st.booleans(),
    seeds,
)
def test_squares_and_normalize_are_torchs_group_norm(
    grouping: tuple[int, int],
    shape: tuple[int, int, int],
    around: list[Surroundings],
    activation: str | None,
    weighted: bool,
    seed: int,
) -> None:
    per_group, groups = grouping
    batch, height, width = shape
    rng = np.random.default_rng(seed)
    channels = per_group * groups
    x = random(rng, batch, channels, height, width) + np.float32(5.0)
    mean = x.mean((2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
    means = place(mean, around[0], rng)
    source, squares = place(x, around[1], rng), place(random(rng, batch, channels, 1, 1), around[2], rng)
    untouched = Untouched(squares)
    bind_squares(source, means, squares, per_group, 0, height * width)()
    exact = x.astype(np.float64)
    centre = np.repeat(mean.astype(np.float64).reshape(batch, groups, -1).mean(2), per_group, 1)[:, :, None, None]
    np.testing.assert_allclose(unpack(squares), ((exact - centre) ** 2).mean((2, 3), keepdims=True), rtol=2e-5, atol=1e-9)
    assert untouched.outside_is_unchanged()
    scale, shift = (random(rng, channels) if weighted else None for _ in range(2))
    out = place(random(rng, *x.shape), around[3], rng)
    untouched = Untouched(out)
    bind_normalize(source, means, squares, out, per_group, 0, 0.01, scale, shift, activation)()
    found = torch.group_norm(torch.from_numpy(exact), groups, None, None, 0.01).numpy()
    if scale is not None and shift is not None:
        found = found * scale[:, None, None] + shift[:, None, None]
    np.testing.assert_allclose(unpack(out), reference.activate(found, activation), rtol=3e-5, atol=3e-5)
    assert untouched.outside_is_unchanged()
    # A part of the channels that begins inside a group: its means have all channels of the groups.
    first = per_group // 2
    if first and channels - first >= 1:
        part = place(x[:, first:], around[4], rng)
        bind_normalize(part, means, squares, part, per_group, first, 0.01)()
        whole = torch.group_norm(torch.from_numpy(exact), groups, None, None, 0.01).numpy()
        np.testing.assert_allclose(unpack(part), whole[:, first:], rtol=3e-5, atol=3e-5)


def test_bad_input_is_refused_with_the_numbers() -> None:
    x, pixel = Blocked.empty(1, 20, 4, 4), Blocked.empty(1, 20, 1, 1)
    with pytest.raises(KernelError, match="softmin"):
        bind_across("softmin", x, x)
    with pytest.raises(KernelError, match="takes 1 parameters, not 0"):
        bind_across("layer_norm", x, x)
    with pytest.raises(KernelError, match="up to 32"):
        bind_across("lrn", x, x, (33.0, 1.0, 1.0, 1.0))
    with pytest.raises(KernelError, match="neither scale nor shift"):
        bind_across("softmax", x, x, (), np.ones(20, np.float32))
    with pytest.raises(KernelError, match="whole groups of 3"):
        bind_normalize(x, pixel, pixel, x, 3, 0, 0.1)
    with pytest.raises(KernelError, match=r"1 to 21"):
        bind_squares(x, pixel, pixel, 5, 1, 16)
