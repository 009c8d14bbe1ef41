"""Quantised models (torchao's pt2e): conversions to 8 bits and back, around operators that are written in fp32.

Both kinds of 8-bit maps become uint8, an int8 map's zero 128 higher. `fogconv.frontend.quantized.absorb` then turns what
lies between conversions into layers on bytes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import fx

from fogconv.errors import ModelError, quoted
from fogconv.frontend.building.values import Const, Ref, Value
from fogconv.frontend.torch.translate import Args, Translator, layer_name
from fogconv.ir.layers import Convert
from fogconv.ir.precision.scale import FP32, Precision

WHOLE = {torch.uint8: (0, 255), torch.int8: (-128, 127)}
"""The ranges of 8-bit types. Bytes that use less of them stay with torch."""


def quantize(t: Translator, node: fx.Node, a: Args) -> Value | None:
    ref, precision = t.elements(a["input"]), _precision(t, node, a)
    return None if ref is None or precision is None else t.as_given(a["input"], _converted(t, node, ref, precision))


def dequantize(t: Translator, node: fx.Node, a: Args) -> Value | None:
    ref = t.elements(a["input"])
    if ref is None or t.tensors[ref.tensor].precision != _precision(t, node, a):
        return None
    return t.as_given(a["input"], _converted(t, node, ref, FP32))


def _precision(t: Translator, node: fx.Node, a: Args) -> Precision | None:
    scale, zero = (_number(t, a[name]) for name in ("scale", "zero_point"))
    whole = WHOLE.get(a["dtype"])
    if scale is None or zero is None or whole is None or (a["quant_min"], a["quant_max"]) != whole:
        return None
    try:
        return Precision("uint8", float(np.float32(scale)), int(zero) - whole[0])
    except ValueError as error:
        raise ModelError(f"node {quoted(node.name)}: {error}") from error


def _number(t: Translator, argument: object) -> float | None:
    """A number, or a tensor of one that is a constant."""
    if isinstance(argument, int | float):
        return float(argument)
    value = t.values.get(argument) if isinstance(argument, fx.Node) else None
    if not isinstance(value, Const) or not isinstance(value.value, torch.Tensor) or value.value.numel() != 1:
        return None
    return float(value.value.item())


def _converted(t: Translator, node: fx.Node, ref: Ref, precision: Precision) -> Ref:
    name, read = t.unique(f"{layer_name(node)}.{node.name}"), t.tensors[ref.tensor]
    target = t.map_of(name, read.channels, read.height, read.width)
    t.tensors[target] = replace(t.tensors[target], precision=precision)
    t.items.append(Convert(name, ref.tensor, target))
    return Ref(target, ref.shape)
