"""Fully connected layers against float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.errors import KernelError
from fogconv.ir.geometry import ConvSpec
from fogconv.kernels import reference
from fogconv.kernels.conv.linear import is_linear, prepare_linear
from fogconv.kernels.maps.blocked import Blocked
from tests.kernels.random_maps import Surroundings, Untouched, pack, place, random, surroundings, unpack


@settings(deadline=None, max_examples=80)
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 40), st.integers(1, 4), st.integers(1, 4)),
    st.integers(1, 50),
    st.sampled_from([None, "relu", "silu"]),
    st.tuples(st.booleans(), st.booleans()),
    st.integers(1, 3),
    st.lists(surroundings, min_size=3, max_size=3),
    st.integers(0, 2**31),
)
def test_linear_is_a_matrix_product(
    shape: tuple[int, int, int, int],
    outputs: int,
    activation: str | None,
    given_: tuple[bool, bool],
    threads: int,
    around: list[Surroundings],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    batch, channels, height, width = shape
    spec = ConvSpec(channels, outputs, height, width, (height, width), batch=batch)
    x, weight = random(rng, *shape), random(rng, *spec.weight_shape)
    bias = random(rng, outputs) if given_[0] else None
    residual = random(rng, *spec.output_shape) if given_[1] else None
    prepared = prepare_linear(spec.with_batch(1), weight, bias, activation=activation, threads=threads).at(spec)
    out = place(random(rng, *spec.output_shape), around[1], rng)
    untouched = Untouched(out)
    prepared.run(place(x, around[0], rng), out, place(residual, around[2], rng) if residual is not None else None)
    expected = reference.linear(x.reshape(batch, -1), weight.reshape(outputs, -1), bias)
    if residual is not None:
        expected += residual[:, :, 0, 0]
    error = np.abs(unpack(out)[:, :, 0, 0] - reference.activate(expected, activation)).max()
    assert error <= 2e-6 * np.abs(expected).max() + 1e-6
    assert untouched.outside_is_unchanged()


def test_the_residual_may_be_the_output_itself() -> None:
    rng = np.random.default_rng(0)
    spec = ConvSpec(20, 33, 1, 1, (1, 1))
    x, weight, residual = random(rng, 1, 20, 1, 1), random(rng, 33, 20, 1, 1), random(rng, 1, 33, 1, 1)
    out = pack(residual)
    prepare_linear(spec, weight).run(pack(x), out, out)
    expected = reference.conv2d(x, weight, None, spec) + residual
    np.testing.assert_allclose(unpack(out), expected, atol=1e-5)


def test_a_prepared_layer_tells_what_it_is() -> None:
    spec = ConvSpec(20, 33, 2, 2, (2, 2))
    prepared = prepare_linear(spec, np.zeros(spec.weight_shape, np.float32))
    assert prepared.algorithm == "linear"
    assert prepared.spec == spec
    assert prepared.wanted_margin == (0, 0, 0, 0)
    assert prepared.weight_bytes == (3 * 2 * 4 * 256 + 48) * 4
    assert is_linear(spec)
    assert not is_linear(ConvSpec(20, 33, 2, 2, (2, 2), padding=(0, 1, 0, 0)))


def test_bad_input_is_refused_with_both_shapes() -> None:
    spec = ConvSpec(20, 33, 2, 2, (2, 2))
    weight = np.zeros(spec.weight_shape, np.float32)
    prepared = prepare_linear(spec, weight)
    x, out = Blocked.empty(1, 20, 2, 2), Blocked.empty(1, 33, 1, 1)
    with pytest.raises(KernelError, match=r"input.*\(1, 20, 2, 2\), not \(1, 33, 1, 1\)"):
        prepared.bind(out, out)
    with pytest.raises(KernelError, match="output"):
        prepared.bind(x, x)
    with pytest.raises(KernelError, match="cover"):
        prepare_linear(ConvSpec(20, 33, 3, 3, (2, 2)), weight)
    with pytest.raises(KernelError, match="float64"):
        prepare_linear(spec, weight.astype(np.float64))  # type: ignore[arg-type]
    with pytest.raises(KernelError, match=r"bias.*\(32,\).*33"):
        prepare_linear(spec, weight, np.zeros(32, np.float32))
    with pytest.raises(KernelError, match="another batch"):
        prepared.at(ConvSpec(20, 33, 1, 1, (1, 1)))
    with pytest.raises(KernelError, match="tanh"):
        prepare_linear(spec, weight, activation="tan")
