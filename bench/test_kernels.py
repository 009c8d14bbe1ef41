"""Single kernels for pytest-benchmark: `pytest bench --benchmark-only`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fogconv.kernels import prepare_conv2d
from fogconv.kernels.conv.autotune import parse
from fogconv.kernels.maps.blocked import Blocked

LAYERS = {
    "first layer": "3x224x224-64k7x7s2p3",
    "1x1": "256x14x14-1024k1x1s1",
    "1x1 streamed": "256x56x56-64k1x1s1",
    "3x3 stride 2": "128x56x56-128k3x3s2p1",
    "winograd": "64x56x56-64k3x3s1p1",
    "1x7": "192x17x17-192k1x7s1p0x0x3x3",
    "depthwise": "384x14x14-384k3x3s1p1g384",
    "groups of 4": "128x56x56-128k3x3s1p1g32",
    "shard of channels": "64x56x56-21k3x3s1p1",
    "shard of rows": "64x6x56-64k3x3s1p0x0x1x1",
}


@pytest.mark.parametrize("name", LAYERS)
def test_conv(benchmark: Any, name: str) -> None:
    spec = parse(LAYERS[name])
    weight = np.random.default_rng(0).standard_normal(spec.weight_shape, dtype=np.float32)
    prepared = prepare_conv2d(spec, weight)
    call = prepared.bind(prepared.empty_input(), Blocked.empty(*spec.output_shape))
    benchmark.extra_info["algorithm"] = prepared.algorithm
    benchmark(call)
    benchmark.extra_info["gflop_per_s"] = 2e-9 * spec.macs / benchmark.stats["min"]
