"""The float64 reference against torch in float64: the one place where torch defines what right is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fogconv.errors import GeometryError, KernelError
from fogconv.ir.geometry import ConvSpec, PoolSpec
from fogconv.kernels import reference
from tests.graph_reference import ELEMENTWISE

torch = pytest.importorskip("torch")
functional = torch.nn.functional


def pair(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def conv_specs(draw: st.DrawFn) -> ConvSpec:
    groups = draw(st.integers(1, 3))
    try:
        return ConvSpec(
            groups * draw(st.integers(1, 4)),
            groups * draw(st.integers(1, 4)),
            draw(st.integers(1, 9)),
            draw(st.integers(1, 9)),
            draw(pair(1, 3)),
            draw(pair(1, 3)),
            draw(st.tuples(*[st.integers(0, 3)] * 4)),
            draw(pair(1, 2)),
            groups,
            draw(st.integers(1, 2)),
        )
    except GeometryError:
        assume(False)
        raise


def torch_conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, spec: ConvSpec) -> torch.Tensor:
    top, bottom, left, right = spec.padding
    x = functional.pad(x, (left, right, top, bottom))
    return functional.conv2d(x, weight, bias, spec.stride, 0, spec.dilation, spec.groups)


@settings(deadline=None, max_examples=60)
@given(conv_specs(), st.integers(0, 2**31))
def test_conv2d_and_its_gradients_are_torchs(spec: ConvSpec, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.standard_normal(spec.input_shape), requires_grad=True)
    weight = torch.tensor(rng.standard_normal(spec.weight_shape), requires_grad=True)
    bias = rng.standard_normal(spec.out_channels)
    grad = rng.standard_normal(spec.output_shape)
    out = torch_conv(x, weight, torch.tensor(bias), spec)
    out.backward(torch.tensor(grad))
    a, w = x.detach().numpy(), weight.detach().numpy()
    np.testing.assert_allclose(reference.conv2d(a, w, bias, spec), out.detach().numpy(), atol=1e-11)
    np.testing.assert_allclose(reference.conv2d_grad_input(grad, w, spec), x.grad.numpy(), atol=1e-11)
    np.testing.assert_allclose(reference.conv2d_grad_weight(a, grad, spec), weight.grad.numpy(), atol=1e-11)


@st.composite
def pool_specs(draw: st.DrawFn) -> PoolSpec:
    """Geometry that torch accepts: padding at most half the kernel, alike on both sides."""
    kind = draw(st.sampled_from(["max", "avg"]))
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    pad = (draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2))) if kind == "max" else (1, 1)
    try:
        return PoolSpec(
            kind,
            draw(st.integers(1, 3)),
            draw(st.integers(1, 11)),
            draw(st.integers(1, 11)),
            kernel,
            (draw(st.integers(1, 4)), draw(st.integers(1, 4))),
            (pad[0], pad[0], pad[1], pad[1]),
            dilation,
            draw(st.booleans()),
            draw(st.booleans()),
            draw(st.sampled_from([None, 1, 7, -2])) if kind == "avg" else None,
            draw(st.integers(1, 2)),
        )
    except GeometryError:
        assume(False)
        raise


def torch_pool(x: torch.Tensor, spec: PoolSpec) -> torch.Tensor:
    pad = (spec.padding[0], spec.padding[2])
    if spec.kind == "max":
        return functional.max_pool2d(x, spec.kernel, spec.stride, pad, spec.dilation, spec.ceil_mode)
    return functional.avg_pool2d(x, spec.kernel, spec.stride, pad, spec.ceil_mode, spec.count_include_pad, spec.divisor)


@settings(deadline=None, max_examples=200)
@given(pool_specs(), st.integers(0, 2**31), st.booleans())
def test_pooling_is_torchs_nan_and_infinity_included(spec: PoolSpec, seed: int, odd: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((spec.batch, spec.channels, spec.height, spec.width))
    if odd:
        x[rng.random(x.shape) < 0.1] = rng.choice([np.nan, np.inf, -np.inf])
    np.testing.assert_allclose(reference.pool2d(x, spec), torch_pool(torch.tensor(x), spec).numpy(), atol=1e-12)


PARAMETERS = {
    "leaky_relu": (0.2,), "clip": (-1.0, 2.0), "elu": (1.5, 1.2, 0.5), "gelu": (0.5,), "swish": (1.5,),
    "softplus": (2.0, 20.0), "hard_sigmoid": (0.2, 0.4), "hard_gate": (0.5, 1.0, 2.0),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(reference.FUNCTIONS))
def test_activations_are_torchs(name: str) -> None:
    x = np.array([-np.inf, -800.0, -88.0, -3.0, -1e-3, -0.0, 0.0, 0.5, 2.9, 3.1, 6.5, 90.0, np.inf, np.nan])
    numbers = PARAMETERS.get(name, ())
    expected = ELEMENTWISE[name](torch.tensor(x), *numbers).numpy()
    written = f"{name}({', '.join(map(str, numbers))})" if numbers else name
    np.testing.assert_allclose(reference.activate(x, written), expected, rtol=1e-11, atol=1e-13)


def test_linear_is_torchs() -> None:
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((3, 20)), rng.standard_normal((7, 20)), rng.standard_normal(7)
    expected = functional.linear(torch.tensor(x), torch.tensor(w), torch.tensor(b)).numpy()
    np.testing.assert_allclose(reference.linear(x, w, b), expected, atol=1e-12)


def test_wrong_shapes_are_refused_with_both_shapes() -> None:
    spec = ConvSpec(2, 3, 5, 5, (3, 3))
    with pytest.raises(KernelError, match=r"\(1, 2, 5, 4\).*\(1, 2, 5, 5\)"):
        reference.conv2d(np.zeros((1, 2, 5, 4)), np.zeros((3, 2, 3, 3)), None, spec)
    with pytest.raises(KernelError, match="no activation 'tan'"):
        reference.activate(np.zeros(1), "tan")
