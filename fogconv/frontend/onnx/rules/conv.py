"""Convolutions, with the padding before them, and linear layers as convs over a whole map."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fogconv.frontend.building.values import Padded, Ref, Shape, Value
from fogconv.frontend.fusion import AnyArray
from fogconv.frontend.onnx.translate import Node, Rule, Translator
from fogconv.frontend.space import phases

Sides = tuple[int, int, int, int]
"""Top, bottom, left, right."""


def conv(t: Translator, node: Node) -> Value | None:
    weight = t.const(node.input(1))
    bias = t.const(node.input(2))
    if weight is None or weight.ndim not in (3, 4) or (node.input(2) and bias is None):
        return None
    weight = as_rows(weight)
    padded = t.values[node.input(0)]
    around = padded.padding if isinstance(padded, Padded) else (0, 0, 0, 0)
    source = padded.tensor if isinstance(padded, Padded) else t.as_map(node.input(0), flat=True)
    if source is None:
        return None
    kernel = (weight.shape[2], weight.shape[3])
    read = t.tensors[source]
    stride, dilation = two(node.get("strides", (1, 1))), two(node.get("dilations", (1, 1)))
    own = padding(node, (read.height + sum(around[:2]), read.width + sum(around[2:])), kernel, stride, dilation)
    top, bottom, left, right = (a + b for a, b in zip(around, own, strict=True))
    return phases.conv(
        t,
        node.name,
        source,
        weight,
        bias,
        stride=stride,
        padding=(top, bottom, left, right),
        dilation=dilation,
        groups=int(node.get("group", 1)),
    )


def two(values: Sequence[int], row: int = 1) -> tuple[int, int]:
    """Of rows and columns; ``row`` where an operator on sequences has one number, for its only row."""
    rows, columns = values if len(values) == 2 else (row, *values)
    return (int(rows), int(columns))


def as_rows(weight: AnyArray) -> AnyArray:
    """The weight of a conv on sequences as one on maps of one row."""
    return weight[:, :, None] if weight.ndim == 3 else weight


def one_row(rule: Rule) -> Rule:
    """A rule on maps that takes sequences (N, C, L), too, as maps of one row."""

    def wrapped(t: Translator, node: Node) -> Value | None:
        value, shape = rule(t, node), t.shape(node.input(0))
        if not isinstance(value, Ref) or shape is None or len(shape) != 3:
            return value
        return Ref(value.tensor, (*value.shape[:2], value.shape[3])) if len(value.shape) == 4 else value

    return wrapped


def padding(
    node: Node, size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> Sides:
    """The zeros around a map of this size, from ``pads`` or ``auto_pad``."""
    auto = node.get("auto_pad", "NOTSET")
    if auto == "VALID":
        return (0, 0, 0, 0)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        sides = []
        for length, k, step, spread in zip(size, kernel, stride, dilation, strict=True):
            total = max(0, (-(-length // step) - 1) * step + (k - 1) * spread + 1 - length)
            few, many = total // 2, total - total // 2
            sides += [few, many] if auto == "SAME_UPPER" else [many, few]
        return (sides[0], sides[1], sides[2], sides[3])
    top, left, bottom, right = four(node.get("pads", (0, 0, 0, 0)))
    return (int(top), int(bottom), int(left), int(right))


def four(pads: Sequence[int]) -> Sequence[int]:
    """Top, left, bottom, right; those of sequences are left and right."""
    return pads if len(pads) == 4 else (0, pads[0], 0, pads[1])


def gemm(t: Translator, node: Node) -> Value | None:
    """alpha · A · B + beta · C with constant B and C."""
    weight, bias = t.const(node.input(1)), t.const(node.input(2))
    if weight is None or node.get("transA", 0) or (node.input(2) and bias is None):
        return None
    matrix = weight if node.get("transB", 0) else weight.T
    if bias is not None:
        if bias.size not in (1, matrix.shape[0]) or bias.shape[-1:] not in ((), (1,), (matrix.shape[0],)):
            return None
        bias = float(node.get("beta", 1.0)) * bias.reshape(-1) + 0.0 * matrix[:, 0]
    return _linear(t, node, float(node.get("alpha", 1.0)) * matrix, bias)


def matmul(t: Translator, node: Node) -> Value | None:
    weight = t.const(node.input(1))
    return None if weight is None or weight.ndim != 2 else _linear(t, node, weight.T, None)


def _linear(t: Translator, node: Node, matrix: AnyArray, bias: AnyArray | None) -> Value | None:
    """``matrix`` is (outputs, features)."""
    last = t.last(node.input(0))
    if last is not None:
        return t.pointwise_linear(node.name, last, matrix, bias)
    ref = t.ref(node.input(0))
    if ref is None:
        return None
    read = t.tensors[ref.tensor]
    features = read.channels * read.height * read.width
    if ref.shape[-1] != features or math.prod(ref.shape[:-1]) != t.batch or matrix.shape[1] != features:
        return None
    shape: Shape = (*ref.shape[:-1], int(matrix.shape[0]))
    return t.linear(node.name, ref.tensor, matrix, bias, shape)
