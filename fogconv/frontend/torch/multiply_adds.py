"""Multiply-adds of operations that stay in torch: how much of a model workers can't do."""

from __future__ import annotations

import math

import torch
from torch import fx

from fogconv.frontend.torch.translate import op_name


def multiply_adds(node: fx.Node) -> int:
    """Of one node, by the shapes of what it reads; 0 for operations that multiply no matrices, and for unknown shapes."""
    shapes = [_shape(source) for source in node.all_input_nodes]
    out = _shape(node)
    if None in shapes or out is None:
        return 0
    known = [shape for shape in shapes if shape is not None]
    match op_name(node):
        case "mm" | "bmm" | "matmul" | "linear" | "mv" | "dot":
            return math.prod(out) * known[0][-1]
        case "addmm" | "baddbmm" | "addbmm":
            return math.prod(out) * known[1][-1]
        case name if "conv_transpose" in name:
            return math.prod(known[0]) * math.prod(known[1][1:])
        case name if name.startswith(("conv1d", "conv2d", "conv3d", "convolution", "_convolution")):
            return math.prod(out) * math.prod(known[1][1:])
        case name if "scaled_dot_product" in name and len(known) > 2:
            return math.prod(known[0][:-1]) * known[1][-2] * (known[0][-1] + known[2][-1])
    return 0


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return None
    sizes = tuple(value.shape)
    return sizes if all(isinstance(size, int) for size in sizes) else None
