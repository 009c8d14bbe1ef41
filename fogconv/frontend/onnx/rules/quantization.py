"""Quantised models: conversions to 8 bits and back, and convs that are written with both in one.

ONNX has int8 and uint8 maps; both become uint8, an int8 map's zero 128 higher. What lies between the conversions is computed
in fp32 as it is written; `fogconv.frontend.quantized.absorb` then turns what it can into layers on bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto

from fogconv.errors import ModelError, quoted
from fogconv.frontend.building.values import Const, Ref, Value
from fogconv.frontend.onnx.translate import Node, Translator
from fogconv.ir.layers import Convert
from fogconv.ir.precision.scale import FP32, Precision

MOVING = ("MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Identity", "Slice", "Split")
"""Operators that compute nothing, so that they have one form for maps of any type."""


def quantize(t: Translator, node: Node) -> Value | None:
    ref, precision = t.elements(node.input(0)), _precision(t, node, node.input(1), node.input(2))
    return None if ref is None or precision is None else t.as_given(node.input(0), _converted(t, node.name, ref, precision))


def dequantize(t: Translator, node: Node) -> Value | None:
    ref = t.elements(node.input(0))
    if ref is None or not t.tensors[ref.tensor].precision.quantized:
        return None
    return t.as_given(node.input(0), _converted(t, node.name, ref, FP32))


def on_bytes(rule: Callable[[Translator, Node], Value | None] | None, t: Translator, node: Node) -> Value | None:
    """What an operator makes of maps of bytes, as of real ones. Raises ModelError for operators that compute on them."""
    found = [value for name in node.inputs if isinstance(value := t.values.get(name), Ref)]
    precisions = {t.tensors[value.tensor].precision for value in found}
    if rule is None or node.op not in MOVING or len(precisions) > 1:
        raise ModelError(
            f"node {quoted(node.name)} ({node.op}) computes on quantised values, which fogconv can't read; write the model "
            "with QuantizeLinear and DequantizeLinear around each operator (QDQ)"
        )
    kept = {name: value for name in node.inputs if isinstance(value := t.values.get(name), Ref)}
    for name, value in kept.items():
        t.values[name] = _converted(t, f"{node.name}.{name}", value, FP32)
    made = rule(t, node)
    t.values.update(kept)
    [precision] = precisions
    return _converted(t, node.name, made, precision) if isinstance(made, Ref) else None


def linear_conv(t: Translator, node: Node) -> Value | None:
    """QLinearConv: x, its scale and zero; w, its scale and zero; the result's scale and zero; B."""
    ref = t.ref(node.input(0))
    made = _precision(t, node, node.input(6), node.input(7))
    weight, scale, zero = (t.const(node.input(index)) for index in (3, 4, 5))
    if ref is None or made is None or weight is None or scale is None or zero is None:
        return None
    read = t.tensors[ref.tensor].precision
    if not read.quantized:
        return None
    reals = t.dequantized.make(weight, scale, zero, 0)
    names = [f"{node.name}.{part}" for part in ("x", "w", "b")]
    t.values |= {names[0]: _converted(t, names[0], ref, FP32), names[1]: Const(reals)}
    inputs = names[:2]
    bias = t.const(node.input(8))
    if bias is not None:
        t.values[names[2]] = Const((bias * (np.float64(read.scale) * scale.astype(np.float64))).astype(np.float32))
        inputs = names
    from fogconv.frontend.onnx.rules.conv import conv

    proto = type(node.proto)()
    proto.CopyFrom(node.proto)
    del proto.input[:]
    proto.input.extend(inputs)
    for name in inputs[:1]:
        t.types[name] = _floats(t.tensors[ref.tensor].shape)
    result = conv(t, Node(proto))
    return _converted(t, node.name, result, made) if isinstance(result, Ref) else None


def _floats(shape: tuple[int, ...]) -> Any:
    from onnx import helper

    return helper.make_tensor_type_proto(TensorProto.FLOAT, shape)


def _precision(t: Translator, node: Node, scale_name: str, zero_name: str) -> Precision | None:
    """Of a whole map; None for one with several scales, which workers have no form of."""
    scale, zero = t.const(scale_name), t.const(zero_name)
    if scale is None or scale.size != 1 or (zero is not None and zero.dtype not in (np.uint8, np.int8)):
        return None
    at = 0 if zero is None else int(zero.reshape(-1)[0]) + (128 if zero.dtype == np.int8 else 0)
    try:
        return Precision("uint8", float(np.float32(scale.reshape(-1)[0])), at)
    except ValueError as error:
        raise ModelError(f"node {quoted(node.name)} ({node.op}): {error}") from error


def _converted(t: Translator, name: str, ref: Ref, precision: Precision) -> Ref:
    name = t.unique(name)
    read = t.tensors[ref.tensor]
    target = t.map_of(name, read.channels, read.height, read.width)
    t.tensors[target] = replace(t.tensors[target], precision=precision)
    t.items.append(Convert(name, ref.tensor, target))
    return Ref(target, ref.shape)
