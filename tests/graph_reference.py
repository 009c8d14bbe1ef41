"""A LayerGraph run with torch.nn.functional, layer by layer: the definition of what a graph means, for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray

from fogconv.ir.geometry import PoolSpec, Taps
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import (
    AcrossChannels,
    Add,
    Affine,
    Concat,
    Conv,
    Elementwise,
    Gate,
    GlobalPool,
    Host,
    Interleave,
    Normalize,
    Pool,
    Resample,
    Shuffle,
    Slice,
    Squares,
)

ELEMENTWISE: dict[str, Callable[..., torch.Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "leaky_relu": F.leaky_relu,
    "clip": torch.clamp,
    "elu": torch.ops.aten.elu,
    "gelu": lambda x, scale: F.gelu(x) * (2.0 * scale),
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "swish": lambda x, beta: x * torch.sigmoid(beta * x),
    "mish": F.mish,
    "softplus": F.softplus,
    "log_sigmoid": F.logsigmoid,
    "softsign": F.softsign,
    "hard_sigmoid": lambda x, alpha, beta: (alpha * x + beta).clamp(0.0, 1.0),
    "hard_gate": lambda x, alpha, beta, high: x * (alpha * x + beta).clamp(0.0, high),
    "tanh": torch.tanh,
    "erf": torch.erf,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "reciprocal": torch.reciprocal,
    "abs": torch.abs,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "add": torch.add,
    "subtract": torch.subtract,
    "multiply": torch.multiply,
    "divide": torch.divide,
    "prelu": lambda x, slope: torch.where(x > 0, x, slope * x),
}
"""Elementwise operators by the workers' names: of maps and parameters."""


def _lrn(x: torch.Tensor, size: float, alpha: float, beta: float, bias: float) -> torch.Tensor:
    """ONNX's: where the window is even, its longer half comes after the channel, where torch's comes before it."""
    return F.local_response_norm(x.flip(1), int(size), alpha, beta, bias).flip(1)


ACROSS: dict[str, Callable[..., torch.Tensor]] = {
    "softmax": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(1),
    "layer_norm": lambda x, eps: (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + eps).sqrt(),
    "lrn": _lrn,
}
"""Operators across channels by the workers' names: of a map and parameters."""


def grouped_mean(values: torch.Tensor, groups: int) -> torch.Tensor:
    """(N, C, 1, 1) → each channel's mean over its group of channels."""
    batch, channels = values.shape[:2]
    means = values.reshape(batch, groups, -1).mean(2)
    return means.repeat_interleave(channels // groups, 1).reshape(batch, channels, 1, 1)


def activated(x: torch.Tensor, activation: str | None) -> torch.Tensor:
    """An activation as a layer or a step names it: "mish", "clip(-1.0, 6.0)"."""
    if activation is None:
        return x
    name, _, numbers = activation.partition("(")
    return ELEMENTWISE[name](x, *(float(each) for each in numbers.removesuffix(")").split(",") if each))


def run_graph(graph: LayerGraph, image: NDArray[Any], *, without: str | None = None) -> NDArray[Any]:
    """The first output for one input (N, C, H, W), see `run_outputs`."""
    return run_outputs(graph, [image], without=without)[0]


@torch.inference_mode()
def run_outputs(graph: LayerGraph, inputs: Sequence[NDArray[Any]], *, without: str | None = None) -> list[NDArray[Any]]:
    """The graph's outputs for its inputs, in the type of the graph's weights.

    ``without`` names a conv whose weights count as zero.
    """
    maps: dict[int, torch.Tensor] = {}
    values: dict[str | int, Any] = dict(enumerate(inputs))
    for port, given in zip(graph.inputs, inputs, strict=True):
        if port.tensor is not None:
            maps[port.tensor] = torch.from_numpy(given).reshape(graph.tensors[port.tensor].shape)
    for layer in graph.layers:
        match layer:
            case Conv():
                maps[layer.target] = _conv(graph, layer, maps, zero=layer.name == without)
            case Pool():
                maps[layer.target] = _pool(layer.spec, maps[layer.source])
            case GlobalPool():
                maps[layer.target] = maps[layer.source].mean((2, 3), keepdim=True)
            case Squares():
                x, mean = maps[layer.source], grouped_mean(maps[layer.mean], layer.groups)
                maps[layer.target] = ((x - mean) ** 2).mean((2, 3), keepdim=True)
            case Normalize():
                mean, squares = (grouped_mean(maps[number], layer.groups) for number in (layer.mean, layer.squares))
                x = (maps[layer.source] - mean) / (squares + layer.eps).sqrt()
                maps[layer.target] = activated(_scaled(graph, layer, x), layer.activation)
            case AcrossChannels():
                x = ACROSS[layer.op](maps[layer.source], *layer.parameters)
                maps[layer.target] = _scaled(graph, layer, x)
            case Add():
                total = maps[layer.sources[0]]
                for source in layer.sources[1:]:
                    total = total + maps[source]
                maps[layer.target] = activated(total, layer.activation)
            case Affine():
                maps[layer.target] = activated(_scaled(graph, layer, maps[layer.source]), layer.activation)
            case Elementwise():
                operands = [maps[source] for source in layer.sources]
                if layer.constant is not None:
                    operands.append(torch.from_numpy(graph.weights[layer.constant])[None])
                maps[layer.target] = ELEMENTWISE[layer.op](*operands, *layer.parameters)
            case Gate():
                assert maps[layer.gate].shape[2:] == (1, 1)
                maps[layer.target] = maps[layer.source] * maps[layer.gate]
            case Concat():
                maps[layer.target] = torch.cat([maps[source] for source in layer.sources], 1)
            case Slice():
                stop = layer.start + graph.tensors[layer.target].channels
                maps[layer.target] = maps[layer.source][:, layer.start : stop]
            case Shuffle():
                channels = graph.tensors[layer.source].channels
                per_group = channels // layer.groups
                order = [
                    i * per_group + j for j in range(per_group) for i in range(layer.groups)
                ]  # position j·g + i takes i·(C/g) + j
                maps[layer.target] = maps[layer.source][:, order]
            case Resample():
                maps[layer.target] = _resampled(layer, maps[layer.source])
            case Interleave():
                s, t = layer.factors
                phases = torch.stack([maps[source] for source in layer.sources], 2)
                n, c, _, h, w = phases.shape
                grid = phases.reshape(n, c, s, t, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c, h * s, w * t)
                target = graph.tensors[layer.target]
                maps[layer.target] = grid[:, :, : target.height, : target.width]
            case Host():
                results = layer.call(values, *(maps[number].contiguous().numpy() for number in layer.reads))
                assert len(results) == len(layer.writes)
                maps.update((number, torch.from_numpy(result)) for number, result in zip(layer.writes, results, strict=True))
        for number in layer.writes:
            assert tuple(maps[number].shape) == graph.tensors[number].shape, layer
    return [
        np.asarray(values[port.value] if port.tensor is None else maps[port.tensor].reshape(port.shape).numpy())
        for port in graph.outputs
    ]


def _scaled(graph: LayerGraph, layer: Affine | Normalize | AcrossChannels, x: torch.Tensor) -> torch.Tensor:
    if layer.scale is not None:
        x = x * torch.from_numpy(graph.weights[layer.scale]).reshape(1, -1, 1, 1)
    if layer.shift is not None:
        x = x + torch.from_numpy(graph.weights[layer.shift]).reshape(1, -1, 1, 1)
    return x


def _conv(graph: LayerGraph, layer: Conv, maps: dict[int, torch.Tensor], *, zero: bool) -> torch.Tensor:
    spec = layer.spec
    top, bottom, left, right = spec.padding
    weight = torch.from_numpy(graph.weights[layer.weight])
    assert tuple(weight.shape) == spec.weight_shape
    assert tuple(maps[layer.source].shape) == spec.input_shape
    padded = F.pad(maps[layer.source], (left, right, top, bottom))
    bias = None if layer.bias is None else torch.from_numpy(graph.weights[layer.bias])
    x = F.conv2d(padded, torch.zeros_like(weight) if zero else weight, bias, spec.stride, 0, spec.dilation, spec.groups)
    if layer.residual is not None:
        x = x + maps[layer.residual]
    return activated(x, layer.activation)


def _resampled(layer: Resample, x: torch.Tensor) -> torch.Tensor:
    """Tap by tap along the rows, then along the columns."""
    for axis, taps in ((2, layer.rows), (3, layer.columns)):
        assert x.shape[axis] == taps.size
        x = torch.stack([_tapped(taps, k, x, axis) for k in range(len(taps.starts))], axis)
    rows, columns = ([start < 0 for start in taps.starts] for taps in (layer.rows, layer.columns))
    x[:, :, rows] = layer.fill
    x[:, :, :, columns] = layer.fill
    return x


def _tapped(taps: Taps, output: int, x: torch.Tensor, axis: int) -> torch.Tensor:
    start = taps.starts[output]
    if start < 0 or not taps.weights:
        return x.select(axis, max(start, 0))
    weights = torch.tensor(taps.weights[output], dtype=x.dtype)
    return torch.tensordot(x.narrow(axis, start, len(weights)), weights, ([axis], [0]))


def _pool(spec: PoolSpec, x: torch.Tensor) -> torch.Tensor:
    top, bottom, left, right = spec.padding
    if (top, left) != (bottom, right):
        return _unevenly_padded_pool(spec, x)
    if spec.kind == "max":
        return F.max_pool2d(x, spec.kernel, spec.stride, (top, left), spec.dilation, spec.ceil_mode)
    return F.avg_pool2d(x, spec.kernel, spec.stride, (top, left), spec.ceil_mode, spec.count_include_pad, spec.divisor)


def _unevenly_padded_pool(spec: PoolSpec, x: torch.Tensor) -> torch.Tensor:
    """torch pads both sides alike."""
    top, bottom, left, right = spec.padding
    around = (left, right, top, bottom)
    assert not spec.ceil_mode and spec.divisor is None
    if spec.kind == "max":
        return F.max_pool2d(F.pad(x, around, value=-torch.inf), spec.kernel, spec.stride, 0, spec.dilation)
    ones = F.pad(torch.ones_like(x), around, value=float(spec.count_include_pad))
    sums, counts = (F.avg_pool2d(each, spec.kernel, spec.stride, divisor_override=1) for each in (F.pad(x, around), ones))
    return sums / counts
