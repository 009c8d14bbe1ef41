"""Pooling, and means and maxima over rows and columns."""

from __future__ import annotations

import math
from typing import Any

from fogconv.frontend.building.values import Padded, Shape, Value
from fogconv.frontend.onnx.rules.conv import padding, two
from fogconv.frontend.onnx.translate import Node, Translator


def max_pool(t: Translator, node: Node) -> Value | None:
    if len([name for name in node.outputs if name]) > 1:
        return None  # with indices
    return _pool(t, node, "max", dilation=two(node.get("dilations", (1, 1))))


def average_pool(t: Translator, node: Node) -> Value | None:
    counts = bool(node.get("count_include_pad", 0))
    spread = two(node.get("dilations", (1, 1)))
    # Runtimes do not agree on what a window beyond the padding divides by.
    if spread != (1, 1) or (counts and node.get("ceil_mode", 0)):
        return None
    return _pool(t, node, "avg", count_include_pad=counts)


def _pool(t: Translator, node: Node, kind: str, **geometry: Any) -> Value | None:
    kernel = node.get("kernel_shape", ())
    before = t.values.get(node.input(0))
    wider = before.padding if isinstance(before, Padded) else (0, 0, 0, 0)
    number = before.tensor if isinstance(before, Padded) else t.as_map(node.input(0), flat=True)
    if number is None or len(kernel) not in (1, 2):
        return None
    read = t.tensors[number]
    stride = two(node.get("strides", (1, 1)))
    size = (read.height + sum(wider[:2]), read.width + sum(wider[2:]))
    around = padding(node, size, two(kernel), stride, geometry.get("dilation", (1, 1)))
    ceil = bool(node.get("ceil_mode", 0))
    if any(side > k // 2 for side, k in zip(around, (two(kernel)[0],) * 2 + (two(kernel)[1],) * 2, strict=True)):
        return None  # a window could lie in the padding alone
    if isinstance(before, Padded):
        around = tuple(ours + theirs for ours, theirs in zip(around, wider, strict=True))  # type: ignore[assignment]
        geometry |= {"count_include_pad": True} if kind == "avg" else {}
    return t.pool(node.name, number, kind, kernel=two(kernel), stride=stride, padding=around, ceil_mode=ceil, **geometry)


def takes(node: Node, fill: float) -> bool:
    """Whether a pooling can pad by itself what has been padded with ``fill``: a max pool with −∞, an average pool with zeros
    that it counts."""
    if node.op == "MaxPool":
        return fill == -math.inf
    own = any(node.get("pads", ())) or node.get("auto_pad", "NOTSET") != "NOTSET"
    counts = node.get("count_include_pad", 0) or not own
    return node.op == "AveragePool" and fill == 0.0 and bool(counts) and not node.get("ceil_mode", 0)


def global_max(t: Translator, node: Node) -> Value | None:
    shape, number = t.shape(node.input(0)), t.as_map(node.input(0), flat=True)
    return None if shape is None or number is None else t.global_max(node.name, number, (*shape[:2], 1, 1))


def maximum(t: Translator, node: Node) -> Value | None:
    """Over rows and columns. Before opset 18 the axes were an attribute."""
    shape = _over_space(t, node)
    number = None if shape is None else t.as_map(node.input(0))
    return None if shape is None or number is None else t.global_max(node.name, number, shape)


def global_average(t: Translator, node: Node) -> Value | None:
    shape = t.shape(node.input(0))
    return None if shape is None else _mean(t, node, (*shape[:2], 1, 1))


def mean(t: Translator, node: Node) -> Value | None:
    """Over rows and columns. Before opset 18 the axes were an attribute."""
    shape = _over_space(t, node)
    return None if shape is None else _mean(t, node, shape)


def _over_space(t: Translator, node: Node) -> Shape | None:
    """The result's shape where a reduction is over rows and columns."""
    axes = t.const(node.input(1)) if node.input(1) else node.attributes.get("axes")
    shape = t.shape(node.input(0))
    if axes is None or shape is None or len(shape) != 4 or {int(axis) % 4 for axis in axes} != {2, 3}:
        return None
    return (*shape[:2], 1, 1) if node.get("keepdims", 1) else shape[:2]


def _mean(t: Translator, node: Node, shape: Shape) -> Value | None:
    number = t.as_map(node.input(0), flat=True)
    return None if number is None else t.global_pool(node.name, number, shape)
