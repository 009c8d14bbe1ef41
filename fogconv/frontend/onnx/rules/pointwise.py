"""Per element and per channel: batch norm, activations, sums, products, squeeze-and-excitation."""

from __future__ import annotations

import math

import numpy as np

from fogconv.frontend.fusion import AnyArray
from fogconv.frontend.graph_builder import Ref, Value
from fogconv.frontend.onnx.translate import Node, Rule, Translator


def batch_norm(t: Translator, node: Node) -> Value | None:
    """x·w/√(var+eps) + (b − mean·w/√(var+eps)), in float64."""
    ref = t.channelwise(node.input(0))
    given = [t.const(node.input(index)) for index in range(1, 5)]
    if ref is None or node.get("training_mode", 0) or len([name for name in node.outputs if name]) > 1:
        return None
    weight, bias, mean, variance = (None if each is None else each.astype(np.float64) for each in given)
    if weight is None or bias is None or mean is None or variance is None:
        return None
    scale = weight / np.sqrt(variance + float(node.get("epsilon", 1e-5)))
    return t.affine(node.name, ref, scale, bias - mean * scale)


def activation(kind: str) -> Rule:
    def rule(t: Translator, node: Node) -> Value | None:
        ref = t.ref(node.input(0))
        return None if ref is None else t.affine(node.name, ref, None, None, kind)

    return rule


def hard_sigmoid(t: Translator, node: Node) -> Value | None:
    """Only as torch and PaddlePaddle ≥ 2 have it: clip(x/6 + 1/2, 0, 1)."""
    ref = t.ref(node.input(0))
    usual = math.isclose(node.get("alpha", 0.2), 1 / 6, rel_tol=1e-4) and node.get("beta", 0.5) == 0.5
    return t.affine(node.name, ref, None, None, "hardsigmoid") if ref and usual else None


def clip(t: Translator, node: Node) -> Value | None:
    """Between 0 and 6, or 0 and no end."""
    ref = t.ref(node.input(0))
    low, high = (_limit(t, node, index, name) for index, name in ((1, "min"), (2, "max")))
    if ref is None or low != 0.0 or high is None or (high != 6.0 and high < float(np.finfo(np.float32).max)):
        return None
    return t.affine(node.name, ref, None, None, "relu6" if high == 6.0 else "relu")


def _limit(t: Translator, node: Node, index: int, name: str) -> float | None:
    """None: it is computed. Before opset 11 limits were attributes."""
    if not node.input(index):
        return float(node.get(name, math.inf if name == "max" else -math.inf))
    value = t.const(node.input(index))
    return None if value is None else float(value.reshape(-1)[0])


def leaky_relu(t: Translator, node: Node) -> Value | None:
    ref = t.ref(node.input(0))
    slope = float(node.get("alpha", 0.01))
    return None if ref is None else t.elementwise(node.name, "leaky_relu", (ref.tensor,), ref.shape, (slope,))


def maximum(t: Translator, node: Node) -> Value | None:
    maps = _maps(t, node)
    if maps is None or len(maps) != 2:
        return None
    shape = t.shape(node.input(0))
    return None if shape is None else t.elementwise(node.name, "maximum", maps, shape)


def add(t: Translator, node: Node) -> Value | None:
    if len(node.inputs) == 2:
        for one, other in (node.inputs, tuple(node.inputs)[::-1]):
            ref = t.ref(one)
            if ref is not None and (shift := _per_channel(t, ref, other)) is not None:
                return t.affine(node.name, ref, None, shift)
    maps = _maps(t, node)
    shape = t.shape(node.input(0))
    if maps is None or shape is None:
        return None
    return Ref(maps[0], shape) if len(maps) == 1 else t.add(node.name, maps, shape)


def subtract(t: Translator, node: Node) -> Value | None:
    """A map and a constant per channel, either way round."""
    ref = t.ref(node.input(0))
    if ref is not None and (shift := _per_channel(t, ref, node.input(1))) is not None:
        return t.affine(node.name, ref, None, -shift)
    ref = t.ref(node.input(1))
    if ref is not None and (shift := _per_channel(t, ref, node.input(0))) is not None:
        return t.affine(node.name, ref, np.full_like(shift, -1.0), shift)
    return None


def multiply(t: Translator, node: Node) -> Value | None:
    pairs = ((node.input(0), node.input(1)), (node.input(1), node.input(0)))
    for one, other in pairs:
        ref = t.ref(one)
        if ref is not None and (scale := _per_channel(t, ref, other)) is not None:
            return t.affine(node.name, ref, scale, None)
    return next((gated for one, other in pairs if (gated := _gate(t, node, one, other)) is not None), None)


def divide(t: Translator, node: Node) -> Value | None:
    ref = t.ref(node.input(0))
    divisor = None if ref is None else _per_channel(t, ref, node.input(1))
    return None if ref is None or divisor is None or not divisor.all() else t.affine(node.name, ref, 1.0 / divisor, None)


def _per_channel(t: Translator, ref: Ref, name: str) -> AnyArray | None:
    """A constant operand that does not enlarge the map, as one number per channel in float64, or None."""
    value = t.const(name)
    if value is None or value.dtype != np.float32:
        return None
    channels = t.tensors[ref.tensor].channels
    if value.size == 1 and value.ndim <= len(ref.shape):
        return np.full(channels, float(value.reshape(-1)[0]))
    shape = (1,) * (len(ref.shape) - value.ndim) + value.shape
    whole = t.tensors[ref.tensor].shape
    if len(shape) != len(ref.shape) or ref.shape[:2] != whole[:2] or shape[1] != channels or value.size != channels:
        return None
    numbers: AnyArray = value.astype(np.float64).reshape(channels)
    return numbers


def _maps(t: Translator, node: Node) -> tuple[int, ...] | None:
    """The maps of operands of one shape, at least one of which is already a map."""
    shapes = {t.shape(name) for name in node.inputs}
    refs = [t.ref(name) for name in node.inputs]
    if len(shapes) != 1 or None in shapes or not any(refs):
        return None
    if all(refs) and len({t.tensors[ref.tensor].shape for ref in refs if ref}) == 1:
        return tuple(ref.tensor for ref in refs if ref)
    maps = [t.as_map(name) for name in node.inputs]
    known = tuple(number for number in maps if number is not None)
    return known if len(known) == len(maps) else None


def _gate(t: Translator, node: Node, source: str, gate: str) -> Value | None:
    """x · gate with the gate (N, C, 1, 1); x · sigmoid(x) is silu and x · hardsigmoid(x) hardswish."""
    ref, gate_ref = t.ref(source), t.ref(gate)
    if ref is None and gate_ref is None:
        return None
    if ref and gate_ref and (self_gated := t.self_gated(node.name, ref, gate_ref)):
        return self_gated
    shape, gates = t.shape(source), t.shape(gate)
    if shape is None or gates is None or len(shape) != 4 or gates != (*shape[:2], 1, 1):
        return None
    source_map, gate_map = t.as_map(source), t.as_map(gate)
    return None if source_map is None or gate_map is None else t.gate(node.name, source_map, gate_map, shape)
