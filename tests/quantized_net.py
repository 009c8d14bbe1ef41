"""A small net with all that has a form on bytes, quantised with seeded pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from fogconv.ir.geometry import ConvSpec, PoolSpec
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Add, Concat, Conv, GlobalPool, Layer, Pool, Tensor
from fogconv.quantization.quantize import Quantized, quantized

SIDE = 16


def picture(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((1, 3, SIDE, SIDE), np.float32)


def pictures(count: int = 4) -> Sequence[Sequence[NDArray[np.float32]]]:
    return [[picture(seed)] for seed in range(count)]


@cache
def network() -> LayerGraph:
    """Convs with a stride, groups, depthwise, 1×1 and a residual; a max and an average pool, a concat, a linear layer:
    (1, 3, 16, 16) → (1, 10)."""
    rng = np.random.default_rng(3)
    weights: dict[str, NDArray[np.float32]] = {}
    tensors = [Tensor("x", 1, 3, SIDE, SIDE)]
    layers: list[Layer] = []

    def new(name: str, channels: int, height: int, width: int) -> int:
        tensors.append(Tensor(name, 1, channels, height, width))
        return len(tensors) - 1

    def conv(
        source: int,
        channels: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        activation: str | None = "relu",
        residual: int | None = None,
    ) -> int:
        read = tensors[source]
        around = (kernel // 2,) * 4
        spec = ConvSpec(
            read.channels, channels, read.height, read.width, (kernel,) * 2, (stride,) * 2, around, (1, 1), groups
        )
        target = new(f"conv{len(layers)}", channels, spec.out_height, spec.out_width)
        fan = spec.weight_elements / channels
        weights[f"w{target}"] = rng.standard_normal(spec.weight_shape, np.float32) * np.float32(fan**-0.5 * 1.4)
        weights[f"b{target}"] = rng.standard_normal(channels, np.float32) * np.float32(0.3)
        layers.append(Conv(tensors[target].name, source, target, spec, f"w{target}", f"b{target}", activation, residual))
        return target

    first = conv(0, 40, stride=2)
    depthwise = conv(first, 40, groups=40, activation="relu6")
    grouped = conv(depthwise, 48, groups=2)
    pooled = new("max", 48, 4, 4)
    layers.append(Pool("max", grouped, pooled, PoolSpec("max", 48, 8, 8, (3, 3), (2, 2), (1, 1, 1, 1))))
    summed = conv(pooled, 48, residual=pooled)
    narrow = conv(summed, 20, kernel=1, activation="hardswish")
    both = new("concat", 68, 4, 4)
    layers.append(Concat("concat", (summed, narrow), both))
    averaged = new("average", 68, 4, 4)
    around = PoolSpec("avg", 68, 4, 4, (3, 3), (1, 1), (1, 1, 1, 1), count_include_pad=False)
    layers.append(Pool("average", both, averaged, around))
    twice = conv(averaged, 68, kernel=1)
    added = new("add", 68, 4, 4)
    layers.append(Add("add", (twice, averaged), added, "relu"))
    mean = new("mean", 68, 1, 1)
    layers.append(GlobalPool("mean", added, mean))
    spec = ConvSpec(68, 10, 1, 1, (1, 1))
    scores = new("scores", 10, 1, 1)
    weights["w"] = rng.standard_normal(spec.weight_shape, np.float32) * np.float32(0.2)
    layers.append(Conv("scores", mean, scores, spec, "w", None, linear=True))
    return LayerGraph.single("small", tuple(tensors), tuple(layers), 0, scores, (1, 10), weights)


@cache
def on_bytes() -> Quantized:
    return quantized(network(), pictures())
