"""Hand-made LayerGraphs for planner tests: a chain of convs, with weights that are never used."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from fogconv.ir.geometry import ConvSpec
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Add, Conv, Layer, Tensor


def chain(*channels: int, size: int = 32, kernel: int = 3, residual: bool = False) -> LayerGraph:
    """Convs of these channel counts (the input's first) on size × size maps; with a sum of the first and last output."""
    tensors = [Tensor("input", 1, channels[0], size, size)]
    layers: list[Layer] = []
    pad = kernel // 2
    for number, (c, f) in enumerate(pairwise(channels)):
        spec = ConvSpec(c, f, size, size, (kernel, kernel), padding=(pad, pad, pad, pad))
        layers.append(Conv(f"conv{number}", number, number + 1, spec, f"w{number}", None, "relu"))
        tensors.append(Tensor(f"t{number}", 1, f, size, size))
    last = len(tensors) - 1
    if residual:
        tensors.append(Tensor("sum", 1, channels[-1], size, size))
        layers.append(Add("sum", (1, last), last + 1))
        last += 1
    weights = {
        f"w{n}": np.zeros(layer.spec.weight_shape, np.float32) for n, layer in enumerate(layers) if isinstance(layer, Conv)
    }
    return LayerGraph.single("chain", tuple(tensors), tuple(layers), 0, last, tensors[last].shape, weights)
