"""Pooling, resampling, adding, activations, norms, fully connected layers and NaN on aarch64, small enough for an emulator.

`make test-arm` runs this, and test_conv's part for arm. What compiles for NEON here are the same builders that the other
tests examine at length on x86.
"""

from __future__ import annotations

import numpy as np
import pytest

from fogconv.ir.geometry import ConvSpec, PoolSpec, Taps
from fogconv.kernels import reference
from fogconv.kernels.conv.conv import conv2d
from fogconv.kernels.conv.linear import prepare_linear
from fogconv.kernels.maps.across_channels import bind_across
from fogconv.kernels.maps.blocked import Blocked, Margin
from fogconv.kernels.maps.elementwise import bind_add, bind_affine
from fogconv.kernels.maps.interleaving import bind_interleave
from fogconv.kernels.maps.normalize import bind_normalize, bind_squares
from fogconv.kernels.maps.pack import pack, unpack
from fogconv.kernels.maps.per_element import bind_elementwise
from fogconv.kernels.maps.pooling import bind_pool
from fogconv.kernels.maps.resampling import bind_resample

pytestmark = pytest.mark.arm


def seeded(shape: tuple[int, ...], seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pooling_is_right_on_this_instruction_set(kind: str) -> None:
    spec = PoolSpec(kind, 20, 9, 9, (3, 3), (2, 2), (1, 1, 1, 1))
    x = seeded((1, 20, 9, 9))
    source, target = Blocked.empty(1, 20, 9, 9, Margin()), Blocked.empty(1, 20, spec.out_height, spec.out_width, Margin())
    pack(x, out=source)
    bind_pool(spec, source, 0, 0, target, 0, 0)()
    assert np.abs(unpack(target) - reference.pool2d(x, spec)).max() <= 1e-6


def test_addition_with_activation_is_right_on_this_instruction_set() -> None:
    a, b = seeded((1, 20, 5, 5)), seeded((1, 20, 5, 5), 1)
    maps = [Blocked.empty(1, 20, 5, 5, Margin()) for _ in range(3)]
    for values, blocked in zip((a, b), maps, strict=False):
        pack(values, out=blocked)
    bind_add(maps[:2], maps[2], "relu6")()
    assert np.array_equal(unpack(maps[2]), np.clip(a + b, 0, 6))


ACTIVATIONS = ("clip(-1.0, 0.5)", "elu(1.0, 1.0, 1.0)", "gelu(0.5)", "mish", "softplus(1.0, 20.0)", "tanh", "floor")
"""Each kind of arithmetic once: an emulator takes half a minute to compile one."""


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_right_on_this_instruction_set(activation: str) -> None:
    x = 3 * seeded((1, 20, 5, 5))
    source, target = (pack(x) for _ in range(2))
    bind_affine(source, target, None, None, activation)()
    np.testing.assert_allclose(unpack(target), reference.activate(x, activation), rtol=1e-6, atol=1e-6)


def test_a_convs_epilogue_is_right_on_this_instruction_set() -> None:
    spec = ConvSpec(20, 20, 9, 9, (3, 3), padding=(1, 1, 1, 1))
    x, weight = seeded(spec.input_shape), seeded(spec.weight_shape, 1)
    found = conv2d(x, weight, padding=1, activation="mish")
    exact = reference.activate(reference.conv2d(x, weight, None, spec), "mish")
    assert np.abs(found - exact).max() <= 5e-5 * np.abs(exact).max()


def test_operands_of_fewer_channels_rows_and_columns_are_right_on_this_instruction_set() -> None:
    x = seeded((2, 20, 4, 5))
    for shape in ((20, 1, 1), (1, 4, 5), (1, 1, 5)):
        y, target = seeded(shape, 1), pack(x)
        bind_elementwise("multiply", [pack(x)], target, (), y)()
        np.testing.assert_allclose(unpack(target), x * y, rtol=1e-6)


def test_norms_are_right_on_this_instruction_set() -> None:
    x = seeded((1, 20, 4, 5)) + 3
    target, squares = pack(x), Blocked.empty(1, 20, 1, 1)
    mean = pack(x.mean((2, 3), keepdims=True))
    bind_squares(pack(x), mean, squares, 5, 0, 20)()
    bind_normalize(pack(x), mean, squares, target, 5, 0, 0.01)()
    groups = x.astype(np.float64).reshape(1, 4, -1)
    exact = (groups - groups.mean(2, keepdims=True)) / np.sqrt(groups.var(2, keepdims=True) + 0.01)
    np.testing.assert_allclose(unpack(target), exact.reshape(x.shape), rtol=1e-5, atol=1e-5)
    bind_across("softmax", pack(x), target)()
    powers = np.exp(x.astype(np.float64))
    np.testing.assert_allclose(unpack(target), powers / powers.sum(1, keepdims=True), rtol=2e-6)
    bind_across("layer_norm", pack(x), target, (0.01,))()
    wide = x.astype(np.float64)
    exact = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 0.01)
    np.testing.assert_allclose(unpack(target), exact, rtol=1e-5, atol=1e-5)
    bind_across("lrn", pack(x), target, (1.0, 0.5, 0.75, 1.0))()
    np.testing.assert_allclose(unpack(target), wide / (1 + 0.5 * wide**2) ** 0.75, rtol=2e-6)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_a_fully_connected_layer_is_right_for_so_many_images(batch: int) -> None:
    spec = ConvSpec(40, 37, 2, 1, (2, 1), batch=batch)
    x, weight = seeded(spec.input_shape), seeded(spec.weight_shape, 1)
    source, out = Blocked.empty(*spec.input_shape), Blocked.empty(*spec.output_shape)
    pack(x, out=source)
    prepare_linear(spec.with_batch(1), weight, activation="relu").at(spec).run(source, out)
    exact = reference.activate(reference.linear(x.reshape(batch, -1), weight.reshape(37, -1), None), "relu")
    assert np.abs(unpack(out)[:, :, 0, 0] - exact).max() <= 5e-6 * np.abs(exact).max()


@pytest.mark.parametrize("depth", [24, 37, 400])  # whole vectors of channels, a rest of five, the larger tile
def test_a_pointwise_convolution_is_right_and_keeps_nan(depth: int) -> None:
    spec = ConvSpec(depth, 37, 3, 13, (1, 1))
    x, weight = seeded(spec.input_shape), seeded(spec.weight_shape, 1)
    exact = reference.activate(reference.conv2d(x, weight, None, spec), "relu6")
    assert np.abs(conv2d(x, weight, activation="relu6") - exact).max() <= 5e-6 * np.abs(exact).max()
    x[0, depth - 1, 1, 7] = np.nan
    missing = np.isnan(conv2d(x, weight, activation="relu6"))
    assert missing[:, :, 1, 7].all()
    assert missing.sum() == 37


@pytest.mark.parametrize(("groups", "stride"), [(24, 1), (24, 2), (12, 1)])
def test_a_depthwise_convolution_is_right_and_keeps_nan(groups: int, stride: int) -> None:
    spec = ConvSpec(24, 24, 9, 11, (3, 3), (stride, stride), (1, 1, 1, 1), groups=groups)
    x, weight = seeded(spec.input_shape), seeded(spec.weight_shape, 1)
    exact = reference.activate(reference.conv2d(x, weight, None, spec), "relu")
    found = conv2d(x, weight, stride=stride, padding=1, groups=groups, activation="relu")
    assert np.abs(found - exact).max() <= 5e-6 * np.abs(exact).max()
    x[0, 3, 4, 4] = np.nan
    again = conv2d(x, weight, stride=stride, padding=1, groups=groups, activation="relu")
    assert np.isnan(again[0, 3, 4 // stride, 4 // stride])
    assert np.array_equal(found[0, 8:], again[0, 8:])


def test_the_largest_value_of_a_window_is_nan_where_one_is() -> None:
    spec = PoolSpec("max", 16, 4, 4, (2, 2), (2, 2))
    x = seeded((1, 16, 4, 4))
    x[0, 5, 0, 1] = np.nan
    source, target = Blocked.empty(1, 16, 4, 4), Blocked.empty(1, 16, 2, 2)
    pack(x, out=source)
    bind_pool(spec, source, 0, 0, target, 0, 0)()
    found = unpack(target)
    assert np.isnan(found[0, 5, 0, 0])
    assert np.isnan(found).sum() == 1


TAPS = {
    "copies": Taps(9, (8, -1, 0, 3)),
    "pairs": Taps(9, (0, 3, 7, -1), ((0.25, 0.75), (1.0,), (0.5, 0.5), (1.0,))),
    "several": Taps(9, (0, 3, -1), ((0.1, -0.2, 0.7, 0.4), (1.0,), (1.0,))),
}


@pytest.mark.parametrize("name", TAPS)
def test_resampling_is_right_on_this_instruction_set(name: str) -> None:
    taps, x = TAPS[name], seeded((1, 20, 9, 9))
    expected = reference.resample(x, taps, taps, 0.5)
    source, target = Blocked.empty(1, 20, 9, 9, Margin()), Blocked.empty(*expected.shape)
    pack(x, out=source)
    bind_resample(source, target, taps, taps, 0.5)()
    assert np.abs(unpack(target) - expected).max() <= 1e-6


def test_interleaving_is_right_on_this_instruction_set() -> None:
    phases = [seeded((1, 20, 3, 4), seed) for seed in range(4)]
    maps = [Blocked.empty(1, 20, 3, 4, Margin()) for _ in phases]
    for values, blocked in zip(phases, maps, strict=True):
        pack(values, out=blocked)
    target = Blocked.empty(1, 20, 5, 7, Margin())
    bind_interleave(maps, target, (2, 2), (1, 0))()
    assert np.array_equal(unpack(target), reference.interleave(phases, (2, 2), (1, 0), (5, 7)))


def test_interleaving_from_any_lane_is_right_on_this_instruction_set() -> None:
    x = seeded((1, 12, 3, 4))
    source, target = Blocked.empty(1, 12, 3, 4, Margin()), Blocked.empty(1, 3, 6, 8, Margin())
    pack(x, out=source)
    lanes = (0, 3, 6, 9)
    views = [Blocked(source.data, lane + 3, 3, 4, source.margin) for lane in lanes]
    bind_interleave(views, target, (2, 2), (0, 0), lanes)()
    phases = [x[:, lane : lane + 3] for lane in lanes]
    assert np.array_equal(unpack(target), reference.interleave(phases, (2, 2), (0, 0), (6, 8)))
