"""The kernels on aarch64: every kind once, small enough for an emulator. `make test-arm` runs this.

What compiles for NEON here are the same builders that the other tests examine at length on x86.
"""

from __future__ import annotations

import numpy as np
import pytest

from fogconv.geometry import ConvSpec, PoolSpec
from fogconv.kernels import conv2d, reference
from fogconv.kernels.blocked import Blocked, Margin, pack, unpack
from fogconv.kernels.elementwise import bind_add
from fogconv.kernels.pooling import bind_pool

pytestmark = pytest.mark.arm


def seeded(shape: tuple[int, ...], seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.parametrize(
    "spec",
    [
        ConvSpec(32, 48, 9, 9, (1, 1)),
        ConvSpec(16, 32, 10, 10, (3, 3), padding=(1, 1, 1, 1)),
        ConvSpec(21, 19, 9, 11, (3, 3), stride=(2, 2), padding=(1, 1, 1, 1)),
        ConvSpec(16, 16, 12, 12, (5, 3), padding=(2, 2, 1, 1), dilation=(1, 2)),
        ConvSpec(3, 32, 16, 16, (7, 7), stride=(2, 2), padding=(3, 3, 3, 3)),
        ConvSpec(32, 32, 9, 9, (3, 3), padding=(1, 1, 1, 1), groups=32),
        ConvSpec(32, 32, 8, 8, (3, 3), padding=(1, 1, 1, 1), groups=4),
        ConvSpec(48, 40, 1, 1, (1, 1)),
    ],
    ids=["1x1", "3x3", "strided", "dilated", "first", "depthwise", "grouped", "linear"],
)
def test_convolution_is_right_on_this_instruction_set(spec: ConvSpec) -> None:
    x, weight, bias = seeded(spec.input_shape), seeded(spec.weight_shape, 1), seeded((spec.out_channels,), 2)
    top, _, left, _ = spec.padding
    y = conv2d(
        x,
        weight,
        bias,
        stride=spec.stride,
        padding=(top, left),
        dilation=spec.dilation,
        groups=spec.groups,
        activation="relu",
    )
    expected = np.maximum(reference.conv2d(x, weight, bias, spec), 0)
    assert np.abs(y - expected).max() <= 5e-5 * np.abs(expected).max()


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
