"""The gradients of conv2d against float64, and as adjoints of the forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fogconv.errors import GeometryError, KernelError
from fogconv.ir.geometry import ConvSpec
from fogconv.kernels import reference
from fogconv.kernels.gradient.gradient import GradInput, GradWeight, conv2d_grad_input, conv2d_grad_weight
from fogconv.kernels.gradient.winograd import pays
from tests.kernels.random_maps import random


@st.composite
def conv_specs(draw: st.DrawFn) -> ConvSpec:
    groups = draw(st.sampled_from([1, 1, 2, 3, 20]))
    per_group = (1, 1) if groups == 20 and draw(st.booleans()) else (draw(st.integers(1, 40)), draw(st.integers(1, 40)))
    if groups > 1:
        per_group = (min(per_group[0], 18), min(per_group[1], 18))
    try:
        return ConvSpec(
            groups * per_group[0],
            groups * per_group[1],
            draw(st.integers(1, 17)),
            draw(st.integers(1, 33)),
            (draw(st.integers(1, 4)), draw(st.integers(1, 4))),
            (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
            draw(st.tuples(*[st.integers(0, 3)] * 4)),
            (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
            groups,
            draw(st.integers(1, 3)),
        )
    except GeometryError:
        assume(False)
        raise


def arrays(spec: ConvSpec, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return random(rng, *spec.input_shape), random(rng, *spec.weight_shape), random(rng, *spec.output_shape)


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / max(1e-30, np.abs(expected).max()))


@settings(deadline=None, max_examples=40)
@given(conv_specs(), st.integers(0, 2**31))
def test_both_gradients_are_the_references(spec: ConvSpec, seed: int) -> None:
    x, weight, grad = arrays(spec, seed)
    assert error(conv2d_grad_input(grad, weight, spec), reference.conv2d_grad_input(grad, weight, spec)) < 1e-5
    assert error(conv2d_grad_weight(x, grad, spec), reference.conv2d_grad_weight(x, grad, spec)) < 1e-5


@settings(deadline=None, max_examples=15)
@given(conv_specs(), st.integers(0, 2**31))
def test_gradients_are_adjoints_of_the_forward_pass(spec: ConvSpec, seed: int) -> None:
    """⟨conv(x), y⟩ = ⟨x, grad_input(y)⟩ = ⟨w, grad_weight(x, y)⟩."""
    x, weight, grad = arrays(spec, seed)
    forward = float((reference.conv2d(x, weight, None, spec) * grad).sum())
    scale = float(np.linalg.norm(x) * np.linalg.norm(conv2d_grad_input(grad, weight, spec))) + 1e-30
    assert abs(float((conv2d_grad_input(grad, weight, spec).astype(np.float64) * x).sum()) - forward) < 1e-5 * scale
    assert abs(float((conv2d_grad_weight(x, grad, spec).astype(np.float64) * weight).sum()) - forward) < 1e-5 * scale


@pytest.mark.parametrize(
    "spec",
    [
        ConvSpec(256, 256, 14, 14, (3, 3), padding=(1, 1, 1, 1), batch=2),
        ConvSpec(512, 128, 7, 7, (3, 3), padding=(1, 1, 1, 1), batch=2),
        ConvSpec(3, 32, 61, 61, (7, 7), (2, 2), (3, 3, 3, 3), batch=2),
        ConvSpec(64, 64, 57, 57, (1, 1), (2, 2)),
        ConvSpec(64, 64, 20, 20, (3, 3), padding=(1, 1, 1, 1), groups=64, batch=2),
        ConvSpec(21, 85, 13, 13, (3, 3), padding=(1, 0, 1, 1)),
    ],
    ids=str,
)
def test_layers_of_real_networks_are_exact_to_1e_5(spec: ConvSpec) -> None:
    x, weight, grad = arrays(spec, 0)
    assert error(conv2d_grad_input(grad, weight, spec), reference.conv2d_grad_input(grad, weight, spec)) < 1e-5
    assert error(conv2d_grad_weight(x, grad, spec), reference.conv2d_grad_weight(x, grad, spec)) < 1e-5


@settings(deadline=None, max_examples=25)
@given(st.data(), st.integers(0, 2**31))
def test_the_weight_gradient_by_way_of_winograd_is_the_references(data: st.DataObject, seed: int) -> None:
    """Channels in parts of blocks, maps that end within a tile, several sets of tiles, and channels of the output apart."""
    c, f = (data.draw(st.integers(16, 50)) for _ in range(2))
    height, width = (data.draw(st.integers(5, 40)) for _ in range(2))
    padding = data.draw(st.tuples(*[st.integers(0, 3)] * 4))
    spec = ConvSpec(c, f, height, width, (3, 3), padding=padding, batch=data.draw(st.integers(1, 3)))
    assume(pays(spec))
    x, _, grad = arrays(spec, seed)
    whole = np.empty((f, c + 7, 3, 3), np.float32)
    found = GradWeight(spec).run(x, grad, whole[:, 7:])
    assert np.shares_memory(found, whole)
    assert error(found, reference.conv2d_grad_weight(x, grad, spec)) < 1e-5


def test_winograd_is_taken_where_it_saves_products() -> None:
    def spec(c: int, f: int, side: int, **more: Any) -> ConvSpec:
        return ConvSpec(c, f, side, side, (3, 3), padding=(1, 1, 1, 1), batch=8, **more)

    assert pays(spec(256, 128, 14))
    assert pays(spec(512, 256, 7))
    assert not pays(spec(256, 256, 2))
    assert not pays(spec(3, 64, 56))
    assert not pays(spec(64, 64, 56, stride=(2, 2)))
    assert not pays(spec(64, 64, 56, groups=2))


def test_repeated_steps_reuse_the_buffers_and_forget_the_step_before() -> None:
    spec = ConvSpec(20, 37, 9, 9, (3, 3), (2, 2), (1, 1, 1, 1), batch=2)
    by_input, by_weight = GradInput(spec), GradWeight(spec)
    out_input = np.empty(spec.input_shape, np.float32)
    out_weight = np.empty(spec.weight_shape, np.float32)
    for seed in range(3):
        x, weight, grad = arrays(spec, seed)
        assert by_input.run(grad, weight, out_input) is out_input
        assert by_weight.run(x, grad, out_weight) is out_weight
        assert error(out_input, reference.conv2d_grad_input(grad, weight, spec)) < 1e-5
        assert error(out_weight, reference.conv2d_grad_weight(x, grad, spec)) < 1e-5


def test_nan_in_the_gradient_reaches_what_it_touches() -> None:
    spec = ConvSpec(3, 5, 6, 6, (3, 3), padding=(1, 1, 1, 1))
    x, weight, grad = arrays(spec, 0)
    grad[0, 2, 3, 3] = np.nan
    found = np.isnan(conv2d_grad_input(grad, weight, spec))
    assert found[0, :, 2:5, 2:5].all()
    assert found.sum() == 3 * 9
    assert np.isnan(conv2d_grad_weight(x, grad, spec)[2]).all()


def test_bad_arrays_are_refused_with_both_shapes() -> None:
    spec = ConvSpec(3, 5, 6, 6, (3, 3))
    x, weight, grad = arrays(spec, 0)
    with pytest.raises(KernelError, match=r"grad_out.*\(1, 5, 4, 4\).*\(1, 3, 6, 6\)"):
        conv2d_grad_input(x, weight, spec)
    with pytest.raises(KernelError, match="float64"):
        conv2d_grad_weight(x.astype(np.float64), grad, spec)  # type: ignore[arg-type]
    with pytest.raises(KernelError, match="output"):
        GradInput(spec).run(grad, weight, np.empty((1, 3, 6, 7), np.float32))
