"""Per element and per channel: batch norm, activations, sums, products, squeeze-and-excitation."""

from __future__ import annotations

import math

import numpy as np

from fogconv.frontend.building.values import Last, Ref, Value, spread
from fogconv.frontend.fusion import AnyArray
from fogconv.frontend.onnx.translate import Node, Rule, Translator

COMMUTE = ("add", "multiply", "maximum", "minimum")
"""Operators whose operands may change places."""


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
        ref = t.elements(node.input(0))
        return None if ref is None else t.as_given(node.input(0), t.affine(node.name, ref, None, None, kind))

    return rule


def elementwise(op: str, *parameters: tuple[str, float] | float) -> Rule:
    """An operator on one map that workers know by the name ``op``; ``parameters`` are numbers, or attributes with their
    defaults."""

    def rule(t: Translator, node: Node) -> Value | None:
        ref = t.elements(node.input(0))
        numbers = [float(node.get(*each)) if isinstance(each, tuple) else each for each in parameters]
        return None if ref is None else t.as_given(node.input(0), t.one(node.name, op, ref, *numbers))

    return rule


def hard_sigmoid(t: Translator, node: Node) -> Value | None:
    ref = t.ref(node.input(0))
    alpha, beta = float(node.get("alpha", 0.2)), float(node.get("beta", 0.5))
    if ref is None:
        return None
    if math.isclose(alpha, 1 / 6, rel_tol=1e-4) and beta == 0.5:  # as torch and PaddlePaddle ≥ 2 have it
        return t.affine(node.name, ref, None, None, "hardsigmoid")
    return t.one(node.name, "hard_sigmoid", ref, alpha, beta)


def clip(t: Translator, node: Node) -> Value | None:
    """Those of relu and relu6 are these."""
    ref = t.ref(node.input(0))
    low, high = (_limit(t, node, index, name) for index, name in ((1, "min"), (2, "max")))
    if ref is None or low is None or high is None:
        return None
    if low == 0.0 and (high == 6.0 or high >= float(np.finfo(np.float32).max)):
        return t.affine(node.name, ref, None, None, "relu6" if high == 6.0 else "relu")
    return t.one(node.name, "clip", ref, low, high)


def _limit(t: Translator, node: Node, index: int, name: str) -> float | None:
    """None: it is computed. Before opset 11 limits were attributes."""
    if not node.input(index):
        return float(node.get(name, math.inf if name == "max" else -math.inf))
    value = t.const(node.input(index))
    return None if value is None else float(value.reshape(-1)[0])


def celu(t: Translator, node: Node) -> Value | None:
    ref, alpha = t.ref(node.input(0)), float(node.get("alpha", 1.0))
    return None if ref is None else t.one(node.name, "elu", ref, alpha, 1.0, 1.0 / alpha)


def gelu(t: Translator, node: Node) -> Value | None:
    ref = t.elements(node.input(0))
    if ref is None:
        return None
    by_tanh = node.get("approximate", "none") == "tanh"
    return t.as_given(node.input(0), t.one(node.name, "gelu_tanh", ref) if by_tanh else t.one(node.name, "gelu", ref, 0.5))


def prelu(t: Translator, node: Node) -> Value | None:
    """One slope for all channels is leaky relu."""
    slope = t.const(node.input(1))
    ref = t.ref(node.input(0))
    if ref is not None and slope is not None and slope.size == 1:
        return t.one(node.name, "leaky_relu", ref, float(slope.reshape(-1)[0]))
    return _combined(t, node, "prelu")


def power(t: Translator, node: Node) -> Value | None:
    """Squares and roots."""
    ref, exponent = t.ref(node.input(0)), t.const(node.input(1))
    if ref is None or exponent is None or exponent.size != 1 or float(exponent.reshape(-1)[0]) not in (2.0, 0.5):
        return None
    if float(exponent.reshape(-1)[0]) == 2.0:
        return t.elementwise(node.name, "multiply", (ref.tensor, ref.tensor), ref.shape)
    return t.one(node.name, "sqrt", ref)


def negative(t: Translator, node: Node) -> Value | None:
    ref = t.ref(node.input(0))
    return None if ref is None else t.affine(node.name, ref, np.full(t.tensors[ref.tensor].channels, -1.0), None)


def extreme(op: str) -> Rule:
    """The greatest or the least of any number of operands."""

    def rule(t: Translator, node: Node) -> Value | None:
        ref = t.ref(node.input(0))
        if len(node.inputs) == 1:
            return ref
        if len(node.inputs) == 2:
            for one, other in (node.inputs, tuple(node.inputs)[::-1]):
                ref, limit = t.ref(one), t.const(other)
                if ref is not None and limit is not None and limit.size == 1 and limit.ndim <= len(ref.shape):
                    number = float(limit.reshape(-1)[0])
                    low, high = (number, math.inf) if op == "maximum" else (-math.inf, number)
                    return t.one(node.name, "clip", ref, low, high)
            return _combined(t, node, op)
        maps, shape = _maps(t, node), t.shape(node.input(0))
        if maps is None or shape is None:
            return None
        found = Ref(maps[0], shape)
        for number in maps[1:]:
            found = t.elementwise(node.name, op, (found.tensor, number), shape)
        return found

    return rule


def _channels_last(t: Translator, node: Node, op: str) -> Value | None:
    """An operator on a map whose channels are the last axis, and a constant per channel or another such map."""
    if len(node.inputs) != 2:
        return None
    one, other = node.inputs
    for first, second in ((one, other), (other, one)):
        last, value = t.last(first), t.const(second)
        if last is None or value is None or (op == "divide" and first != one) or (not value.all() and op == "divide"):
            continue
        channels = t.tensors[last.tensor].channels
        if value.dtype != np.float32 or value.size not in (1, channels) or value.shape[-1:] not in ((), (1,), (channels,)):
            continue
        numbers = np.broadcast_to(value.astype(np.float64).reshape(-1), (channels,)).copy()
        scale, shift = {"add": (None, numbers), "multiply": (numbers, None)}.get(op, (1.0 / numbers, None))
        return Last(t.affine(node.name, last, scale, shift).tensor)
    left, right = t.last(one), t.last(other)
    if left is None or right is None or left.shape != right.shape:
        return None
    if op == "multiply":
        gated = t.self_gated(node.name, left, right) or t.self_gated(node.name, right, left)
        if gated is not None:
            return Last(gated.tensor)
    return Last(t.elementwise(node.name, op, (left.tensor, right.tensor), left.shape).tensor)


def add(t: Translator, node: Node) -> Value | None:
    last = _channels_last(t, node, "add")
    if last is not None:
        return last
    if len(node.inputs) == 2:
        for one, other in (node.inputs, tuple(node.inputs)[::-1]):
            ref = t.ref(one)
            if ref is not None and (shift := _per_channel(t, ref, other)) is not None:
                return t.affine(node.name, ref, None, shift)
    maps = _maps(t, node)
    shape = t.shape(node.input(0))
    if maps is None or shape is None:
        return _combined(t, node, "add") if len(node.inputs) == 2 else None
    return Ref(maps[0], shape) if len(maps) == 1 else t.add(node.name, maps, shape)


def subtract(t: Translator, node: Node) -> Value | None:
    ref = t.ref(node.input(0))
    if ref is not None and (shift := _per_channel(t, ref, node.input(1))) is not None:
        return t.affine(node.name, ref, None, -shift)
    ref = t.ref(node.input(1))
    if ref is not None and (shift := _per_channel(t, ref, node.input(0))) is not None:
        return t.affine(node.name, ref, np.full_like(shift, -1.0), shift)
    return _combined(t, node, "subtract")


def multiply(t: Translator, node: Node) -> Value | None:
    last = _channels_last(t, node, "multiply")
    if last is not None:
        return last
    pairs = ((node.input(0), node.input(1)), (node.input(1), node.input(0)))
    for one, other in pairs:
        ref = t.ref(one)
        if ref is not None and (scale := _per_channel(t, ref, other)) is not None:
            return t.affine(node.name, ref, scale, None)
    gated = next((gated for one, other in pairs if (gated := _gate(t, node, one, other)) is not None), None)
    return gated or _combined(t, node, "multiply")


def divide(t: Translator, node: Node) -> Value | None:
    last = _channels_last(t, node, "divide")
    if last is not None:
        return last
    ref = t.ref(node.input(0))
    divisor = None if ref is None else _per_channel(t, ref, node.input(1))
    if ref is not None and divisor is not None and divisor.all():
        return t.affine(node.name, ref, 1.0 / divisor, None)
    return _combined(t, node, "divide")


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


def _combined(t: Translator, node: Node, op: str) -> Value | None:
    """An operator on two maps, or on a map and a constant, one of which may be of length 1 along axes."""
    shape = t.shape(node.outputs[0])
    maps = _maps(t, node)
    if shape is not None and maps is not None:
        return t.elementwise(node.name, op, maps, shape)
    if shape is None or len(shape) != 4:
        return None
    one, other = node.inputs
    value = t.const(other)
    if t.const(one) is not None and value is None and op in COMMUTE:
        one, other, value = other, one, t.const(one)
    source = t.shape(one)
    if (t.ref(one) is None and t.ref(other) is None) or source is None:
        return None
    if value is not None:
        sizes = (1,) * (4 - value.ndim) + value.shape
        if value.dtype != np.float32 or len(sizes) != 4 or sizes[0] != 1 or not spread(source, sizes, shape):
            return None
        first = t.as_map(one)
        return None if first is None else t.combined(node.name, op, first, value.reshape(sizes[1:]), shape)
    sizes_of_other = t.shape(other)
    if sizes_of_other is None or not spread(source, sizes_of_other, shape):
        return None
    first, second = t.as_map(one), t.as_map(other)
    return None if first is None or second is None else t.combined(node.name, op, first, second, shape)


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
