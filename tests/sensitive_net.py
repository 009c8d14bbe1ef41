"""A small network in which one layer spoils the answer in 8 bits, though it is nearly exact by itself."""

from __future__ import annotations

import numpy as np

from fogconv.ir.arrays import Array
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv, Layer, Tensor
from fogconv.quantization.quantize import Quantized, quantized

SIDE, CHANNELS = 16, 32


def network(activation: str) -> LayerGraph:
    """Nearly even maps, with this activation, of which a depthwise conv finds the edges; two convs of many multiply-adds."""
    rng = np.random.default_rng(0)
    edges = rng.standard_normal((CHANNELS, 1, 3, 3)) * 60
    edges -= edges.mean(axis=(2, 3), keepdims=True)
    weights = {
        "even": np.full((CHANNELS, 1, 1, 1), 0.02) * rng.uniform(0.5, 1.0, (CHANNELS, 1, 1, 1)),
        "level": np.full(CHANNELS, 2.0),
        "edges": edges,
        "mixed": rng.standard_normal((CHANNELS, CHANNELS, 3, 3)) / 17,
        "last": rng.standard_normal((CHANNELS, CHANNELS, 3, 3)) / 17,
    }
    tensors = [Tensor("x", 1, 1, SIDE, SIDE)]
    layers: list[Layer] = []

    def conv(weight: str, kernel: int, groups: int, bias: str | None, bounded: str | None) -> None:
        read, around = tensors[-1], (kernel // 2,) * 4
        spec = ConvSpec(read.channels, CHANNELS, SIDE, SIDE, (kernel,) * 2, (1, 1), around, (1, 1), groups)
        layers.append(Conv(weight, len(tensors) - 1, len(tensors), spec, weight, bias, bounded))
        tensors.append(Tensor(weight, 1, CHANNELS, SIDE, SIDE))

    conv("even", 1, 1, "level", activation)
    conv("edges", 3, CHANNELS, None, "relu6")
    conv("mixed", 3, 1, None, "relu")
    conv("last", 3, 1, None, None)
    kept = {key: np.asarray(each, np.float32) for key, each in weights.items()}
    return LayerGraph.single("edges", tuple(tensors), tuple(layers), 0, len(tensors) - 1, tensors[-1].region.shape, kept)


def noise(seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((1, 1, SIDE, SIDE), np.float32)


def found(activation: str = "relu", tolerance: float = 0.3) -> Quantized:
    pictures = [[noise(seed)] for seed in range(3)]
    return quantized(network(activation), pictures, tolerance=tolerance)
