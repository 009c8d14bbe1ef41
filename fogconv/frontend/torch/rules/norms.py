"""Norms whose statistics depend on the input, and softmax over channels."""

from __future__ import annotations

from torch import fx

from fogconv.frontend.building.values import Many, Ref, Value
from fogconv.frontend.fusion import AnyArray
from fogconv.frontend.torch.translate import Args, Rule, Translator, as_numpy, layer_name


def group_norm(t: Translator, node: fx.Node, a: Args) -> Value | None:
    return _normalized(t, node, a, int(a["num_groups"]))


def native_group_norm(t: Translator, node: fx.Node, a: Args) -> Value | None:
    """The tuple of which mean and deviation are not read."""
    normed = _normalized(t, node, a, int(a["group"]))
    read = {reader.args[1] for reader in node.users}
    return Many((normed, None, None)) if isinstance(normed, Ref) and read <= {0} else None


def instance_norm(t: Translator, node: fx.Node, a: Args) -> Value | None:
    if not a["use_input_stats"]:
        return None
    ref = t.ref(a["input"])
    return None if ref is None else _normalized(t, node, a, t.tensors[ref.tensor].channels)


def layer_norm(t: Translator, node: fx.Node, a: Args) -> Value | None:
    """Over channels, rows and columns; or over channels alone, where they are the last axis."""
    last = t.channels_last(a["input"])
    if last is not None and len(a["normalized_shape"]) == 1:
        weights = [t.const(a[name]) for name in ("weight", "bias")]
        if any(a[name] is not None and each is None for name, each in zip(("weight", "bias"), weights, strict=True)):
            return None
        numbers = [None if each is None else as_numpy(each) for each in weights]
        return t.as_given(a["input"], t.across(layer_name(node), "layer_norm", last, (float(a["eps"]),), *numbers))
    ref = t.channelwise(a["input"])
    if ref is None or len(a["normalized_shape"]) != len(ref.shape) - 1:
        return None
    weight, bias = t.const(a["weight"]), t.const(a["bias"])
    if (a["weight"] is not None and weight is None) or (a["bias"] is not None and bias is None) or len(ref.shape) != 4:
        return None
    normed = t.normalized(layer_name(node), ref, 1, float(a["eps"]), None, None)
    for op, value in (("multiply", weight), ("add", bias)):
        if value is not None:
            normed = t.combined(layer_name(node), op, normed.tensor, as_numpy(value), ref.shape)
    return normed


def _normalized(t: Translator, node: fx.Node, a: Args, groups: int) -> Value | None:
    ref = t.channelwise(a["input"])
    given: list[AnyArray | None] = []
    for name in ("weight", "bias"):
        value = t.const(a[name])
        if a[name] is not None and value is None:
            return None
        given.append(None if value is None else as_numpy(value))
    return None if ref is None else t.normalized(layer_name(node), ref, groups, float(a["eps"]), *given)


def softmax(op: str) -> Rule:
    def rule(t: Translator, node: fx.Node, a: Args) -> Value | None:
        ref = t.channelwise(a["self"])
        if ref is None or a["dim"] % len(ref.shape) != 1 or a.get("dtype") is not None or a.get("half_to_float"):
            return None
        return t.across(layer_name(node), op, ref)

    return rule
