"""Pooling and adding on aarch64, small enough for an emulator: `make test-arm` runs this (and test_conv's part for arm).

What compiles for NEON here are the same builders that the other tests examine at length on x86.
"""

from __future__ import annotations

import numpy as np
import pytest

from fogconv.ir.geometry import PoolSpec
from fogconv.kernels import reference
from fogconv.kernels.maps.blocked import Blocked, Margin
from fogconv.kernels.maps.elementwise import bind_add
from fogconv.kernels.maps.pack import pack, unpack
from fogconv.kernels.maps.pooling import bind_pool

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
