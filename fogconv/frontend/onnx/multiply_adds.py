"""Multiply-adds of nodes that stay in ONNX Runtime: how much of a model workers can't do."""

from __future__ import annotations

import math
from collections.abc import Callable

from fogconv.frontend.building.values import Shape
from fogconv.frontend.onnx.translate import Node

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
"""Products of matrices in one step of a recurrent node."""


def multiply_adds(node: Node, shape: Callable[[str], Shape | None]) -> int:
    """Of one node, by the shapes of its values; 0 for operators that multiply no matrices, and for unknown shapes. What the
    bodies of loops and branches do is not counted."""
    reads = [shape(name) for name in node.inputs]
    made = shape(node.outputs[0]) if node.outputs and node.outputs[0] else None
    first, second = (*reads, None, None)[:2]
    if first is None or second is None:
        return 0
    if node.op in GATES:  # (sequence, batch, input), (directions, gates · hidden, input)
        hidden = second[1] // GATES[node.op]
        return math.prod(first[:2]) * second[0] * second[1] * (first[2] + hidden)
    if node.op == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    if made is None:
        return 0
    match node.op:
        case "MatMul":
            return math.prod(made) * first[-1]
        case "Gemm":
            return math.prod(made) * first[0 if node.get("transA", 0) else -1]
        case "Conv":
            return math.prod(made) * math.prod(second[1:])
    return 0
