"""Per element and per channel: batch norm, activations, sums, products, squeeze-and-excitation."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import fx

from fogconv.frontend.building.values import Many, Ref, Shape, Value, spread
from fogconv.frontend.fusion import AnyArray
from fogconv.frontend.torch.translate import Args, Rule, Translator, as_numpy, layer_name, shape_of


def batch_norm(t: Translator, node: fx.Node, a: Args) -> Value | None:
    """x·w/√(var+eps) + (b − mean·w/√(var+eps)), in float64."""
    ref = t.channelwise(a["input"])
    mean, variance = t.const(a["running_mean"]), t.const(a["running_var"])
    if ref is None or a.get("training") or mean is None or variance is None:
        return None
    scale = 1.0 / np.sqrt(as_numpy(variance) + float(a["eps"]))
    weight, bias = t.const(a["weight"]), t.const(a["bias"])
    if weight is not None:
        scale = scale * as_numpy(weight)
    shift = -as_numpy(mean) * scale
    if bias is not None:
        shift = shift + as_numpy(bias)
    return t.affine(layer_name(node), ref, scale, shift)


def batch_norm_tuple(t: Translator, node: fx.Node, a: Args) -> Value | None:
    normed = batch_norm(t, node, a)
    return Many((normed, None, None)) if isinstance(normed, Ref) else None


def activation(kind: str) -> Rule:
    def rule(t: Translator, node: fx.Node, a: Args) -> Value | None:
        ref = t.elements(a["self"])
        return None if ref is None else t.as_given(a["self"], t.affine(layer_name(node), ref, None, None, kind))

    return rule


def elementwise(op: str, *parameters: str | float) -> Rule:
    """An operator on one map that workers know by the name ``op``; ``parameters`` are numbers, or name its arguments that
    are."""

    def rule(t: Translator, node: fx.Node, a: Args) -> Value | None:
        ref = t.elements(a["self"])
        numbers = [a[each] if isinstance(each, str) else each for each in parameters]
        if ref is None or not all(isinstance(number, int | float) for number in numbers):
            return None
        return t.as_given(a["self"], t.one(layer_name(node), op, ref, *numbers))

    return rule


def elementwise_pair(op: str) -> Rule:
    """An operator on two maps, or a map and a constant, that workers know by the name ``op``."""

    def rule(t: Translator, node: fx.Node, a: Args) -> Value | None:
        return _combined(t, node, op, a["self"], a["other"])

    return rule


def clamp(t: Translator, node: fx.Node, a: Args) -> Value | None:
    """hardtanh, clamp, clamp_min and clamp_max; those of relu and relu6 are these."""
    low, high = (next((a[name] for name in names if a.get(name) is not None), None) for names in _LIMITS)
    ref = t.ref(a["self"])
    if ref is None or isinstance(low, fx.Node) or isinstance(high, fx.Node):
        return None
    low, high = -math.inf if low is None else float(low), math.inf if high is None else float(high)
    if low == 0.0 and high in (6.0, math.inf):
        return t.affine(layer_name(node), ref, None, None, "relu6" if high == 6.0 else "relu")
    return t.one(layer_name(node), "clip", ref, low, high)


_LIMITS = (("min", "min_val"), ("max", "max_val"))


def gelu(t: Translator, node: fx.Node, a: Args) -> Value | None:
    ref, name = t.elements(a["self"]), layer_name(node)
    if ref is None:
        return None
    made = t.one(name, "gelu_tanh", ref) if a["approximate"] == "tanh" else t.one(name, "gelu", ref, 0.5)
    return t.as_given(a["self"], made)


def celu(t: Translator, node: fx.Node, a: Args) -> Value | None:
    ref, alpha = t.ref(a["self"]), float(a["alpha"])
    return None if ref is None else t.one(layer_name(node), "elu", ref, alpha, 1.0, 1.0 / alpha)


def prelu(t: Translator, node: fx.Node, a: Args) -> Value | None:
    """One slope for all channels is leaky relu."""
    ref, slope = t.channelwise(a["self"]), t.const(a["weight"])
    if ref is None or slope is None:
        return None
    slopes = as_numpy(slope).reshape(-1)
    if slopes.size == 1:
        return t.one(layer_name(node), "leaky_relu", ref, float(slopes[0]))
    return t.combined(layer_name(node), "prelu", ref.tensor, slopes.reshape(-1, 1, 1), ref.shape)


def power(t: Translator, node: fx.Node, a: Args) -> Value | None:
    """Squares and roots."""
    ref, exponent = t.ref(a["self"]), a["exponent"]
    if ref is None or exponent not in (2, 0.5):
        return None
    if exponent == 2:
        return t.elementwise(layer_name(node), "multiply", (ref.tensor, ref.tensor), ref.shape)
    return t.one(layer_name(node), "sqrt", ref)


def negative(t: Translator, node: fx.Node, a: Args) -> Value | None:
    ref = t.ref(a["self"])
    return None if ref is None else t.affine(layer_name(node), ref, np.full(t.tensors[ref.tensor].channels, -1.0), None)


def _per_channel(t: Translator, ref: Ref, argument: object, result: Shape) -> AnyArray | None:
    """A constant operand as one number per channel, or None."""
    if isinstance(argument, bool | complex) or result != ref.shape:
        return None
    channels = t.tensors[ref.tensor].channels
    if isinstance(argument, int | float):
        return np.full(channels, float(argument))
    value = t.const(argument)
    if value is None or value.dtype not in (t.dtype, torch.float64) or (value.dtype != t.dtype and value.ndim):
        return None
    if value.numel() == 1:
        return np.full(channels, float(value))
    shape = (1,) * (len(ref.shape) - value.ndim) + tuple(value.shape)
    whole = t.tensors[ref.tensor].shape
    if ref.shape[:2] != whole[:2] or shape[1] != channels or value.numel() != channels:
        return None
    return as_numpy(value).reshape(channels)


def add(t: Translator, node: fx.Node, a: Args) -> Value | None:
    return _sum(t, node, a["self"], a["other"], 1.0, a["alpha"])


def subtract(t: Translator, node: fx.Node, a: Args) -> Value | None:
    shifted = _sum(t, node, a["self"], a["other"], 1.0, -a["alpha"], maps=False)
    if shifted is not None or a["alpha"] != 1:
        return shifted
    ref = t.ref(a["other"])
    if ref is not None and (shift := _per_channel(t, ref, a["self"], shape_of(node))) is not None:
        return t.affine(layer_name(node), ref, np.full_like(shift, -1.0), shift)
    return _combined(t, node, "subtract", a["self"], a["other"])


def subtract_from(t: Translator, node: fx.Node, a: Args) -> Value | None:
    ref, shift = t.ref(a["self"]), a["other"]
    offset = None if ref is None else _per_channel(t, ref, shift, shape_of(node))
    return (
        None if ref is None or offset is None else t.affine(layer_name(node), ref, np.full_like(offset, -a["alpha"]), offset)
    )


def _sum(
    t: Translator, node: fx.Node, one: object, other: object, sign: float, alpha: float, *, maps: bool = True
) -> Value | None:
    ref = t.ref(one)
    if ref is not None and (shift := _per_channel(t, ref, other, shape_of(node))) is not None:
        return t.affine(layer_name(node), ref, None, shift * alpha)
    ref = t.ref(other)
    if ref is not None and alpha == 1 and (shift := _per_channel(t, ref, one, shape_of(node))) is not None:
        return t.affine(layer_name(node), ref, None, shift * sign)
    if not maps or alpha != 1:
        return None
    return _sum_of_maps(t, node, one, other) or _combined(t, node, "add", one, other)


def _sum_of_maps(t: Translator, node: fx.Node, one: object, other: object) -> Value | None:
    sources = _two_maps(t, one, other)
    return None if sources is None else t.add(layer_name(node), sources, shape_of(node))


def _two_maps(t: Translator, one: object, other: object) -> tuple[int, int] | None:
    """The maps of two operands of one shape, at least one of which is already a map."""
    if not isinstance(one, fx.Node) or not isinstance(other, fx.Node):
        return None
    refs = [t.ref(one), t.ref(other)]
    if not any(refs) or shape_of(one) != shape_of(other):
        return None
    if refs[0] and refs[1] and t.tensors[refs[0].tensor].shape == t.tensors[refs[1].tensor].shape:
        return (refs[0].tensor, refs[1].tensor)
    maps = [t.as_map(one), t.as_map(other)]
    return None if maps[0] is None or maps[1] is None else (maps[0], maps[1])


def _combined(t: Translator, node: fx.Node, op: str, one: object, other: object) -> Value | None:
    """An operator on two maps, or on a map and a constant that comes second, one of which may be of length 1 along axes."""
    shape = shape_of(node)
    if not (t.ref(one) or t.ref(other)) or not isinstance(one, fx.Node) or isinstance(other, bool | complex):
        return None
    sources = _two_maps(t, one, other)
    if sources is not None:
        return t.elementwise(layer_name(node), op, sources, shape)
    if len(shape) != 4 or not t.could_be_map(one):
        return None
    if isinstance(other, int | float):
        constant: AnyArray | None = np.full((1, 1, 1), float(other))
    else:
        value = t.const(other)
        constant = None if value is None or value.dtype != t.dtype else as_numpy(value)
    if constant is not None:
        sizes = (1,) * (4 - constant.ndim) + constant.shape
        if len(sizes) != 4 or sizes[0] != 1 or not spread(shape_of(one), sizes, shape):
            return None
        first = t.as_map(one)
        return None if first is None else t.combined(layer_name(node), op, first, constant.reshape(sizes[1:]), shape)
    if not isinstance(other, fx.Node) or not t.could_be_map(other) or not spread(shape_of(one), shape_of(other), shape):
        return None
    first, second = t.as_map(one), t.as_map(other)
    return None if first is None or second is None else t.combined(layer_name(node), op, first, second, shape)


def multiply(t: Translator, node: fx.Node, a: Args) -> Value | None:
    for one, other in ((a["self"], a["other"]), (a["other"], a["self"])):
        ref = t.ref(one)
        if ref is not None and (scale := _per_channel(t, ref, other, shape_of(node))) is not None:
            return t.affine(layer_name(node), ref, scale, None)
    gated = _gate(t, node, a["self"], a["other"]) or _gate(t, node, a["other"], a["self"])
    return gated or _combined(t, node, "multiply", a["self"], a["other"])


def divide(t: Translator, node: fx.Node, a: Args) -> Value | None:
    ref = t.ref(a["self"])
    if a.get("rounding_mode") is not None:
        return None
    divisor = None if ref is None else _per_channel(t, ref, a["other"], shape_of(node))
    if ref is not None and divisor is not None:
        return t.affine(layer_name(node), ref, 1.0 / divisor, None)
    return _combined(t, node, "divide", a["self"], a["other"])


def _gate(t: Translator, node: fx.Node, source: object, gate: object) -> Value | None:
    """x · gate with the gate (N, C, 1, 1); x · sigmoid(x) is silu and x · hardsigmoid(x) hardswish."""
    if not isinstance(source, fx.Node) or not isinstance(gate, fx.Node) or not (t.ref(source) or t.ref(gate)):
        return None
    ref, gate_ref = t.ref(source), t.ref(gate)
    if ref and gate_ref and (self_gated := t.self_gated(layer_name(node), ref, gate_ref)):
        return self_gated
    if len(shape_of(gate)) != 4 or shape_of(gate)[2:] != (1, 1) or shape_of(source)[:2] != shape_of(gate)[:2]:
        return None
    if not t.could_be_map(source) or not t.could_be_map(gate):
        return None
    source_map, gate_map = t.as_map(source), t.as_map(gate)
    if source_map is None or gate_map is None:
        return None
    return t.gate(layer_name(node), source_map, gate_map, shape_of(node))
