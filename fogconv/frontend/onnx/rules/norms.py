"""Norms whose statistics depend on the input, local response normalization, and softmax over channels."""

from __future__ import annotations

import math

import numpy as np

from fogconv.frontend.building.values import Ref, Value
from fogconv.frontend.fusion import AnyArray
from fogconv.frontend.onnx.translate import Node, Rule, Translator

SOFTMAX_OF_ONE_AXIS = 13
"""The opset from which on softmax is over one axis; before, it was over all from that one on."""
GROUPS_SCALED_BY_CHANNEL = 21
"""The opset from which on a group norm's scale is per channel; before, it was per group."""


def instance_norm(t: Translator, node: Node) -> Value | None:
    """A map whose channels were reshaped into groups, too: as torch writes a group norm."""
    ref, scale, shift = t.ref(node.input(0)), t.const(node.input(1)), t.const(node.input(2))
    if ref is None or scale is None or shift is None or len(ref.shape) < 3 or ref.shape[0] != t.batch:
        return None
    groups = ref.shape[1]
    weights = [_per_channel(t, ref, each, groups) for each in (scale, shift)]
    return None if weights[0] is None else t.normalized(node.name, ref, groups, float(node.get("epsilon", 1e-5)), *weights)


def group_norm(t: Translator, node: Node) -> Value | None:
    ref, scale, shift = t.channelwise(node.input(0)), t.const(node.input(1)), t.const(node.input(2))
    if ref is None or scale is None or shift is None:
        return None
    groups = int(node.get("num_groups", 1))
    by = ref.shape[1] if t.opset(node) >= GROUPS_SCALED_BY_CHANNEL else groups
    weights = [_per_channel(t, ref, each, by) for each in (scale, shift)]
    return None if weights[0] is None else t.normalized(node.name, ref, groups, float(node.get("epsilon", 1e-5)), *weights)


def _per_channel(t: Translator, ref: Ref, values: AnyArray, groups: int) -> AnyArray | None:
    """One number per channel from one per group of channels."""
    channels = t.tensors[ref.tensor].channels
    if channels % groups or values.shape != (groups,):
        return None
    spread: AnyArray = np.repeat(values, channels // groups)
    return spread


def layer_norm(t: Translator, node: Node) -> Value | None:
    """Over channels, rows and columns; or over channels alone, where they are the last axis."""
    ref, last = t.channelwise(node.input(0)), t.channels_last(node.input(0))
    given = [t.const(node.input(index)) for index in (1, 2)]
    if (
        last is not None
        and node.get("axis", -1) in (-1, len(last.shape) - 1)
        and len([name for name in node.outputs if name]) == 1
    ):
        if given[0] is None or (node.input(2) and given[1] is None):
            return None
        return t.as_given(
            node.input(0), t.across(node.name, "layer_norm", last, (float(node.get("epsilon", 1e-5)),), *given)
        )
    if ref is None or len(ref.shape) != 4 or node.get("axis", -1) % 4 != 1 or given[0] is None:
        return None
    if (node.input(2) and given[1] is None) or len([name for name in node.outputs if name]) > 1:
        return None
    normed = t.normalized(node.name, ref, 1, float(node.get("epsilon", 1e-5)), None, None)
    for op, value in zip(("multiply", "add"), given, strict=True):
        if value is not None:
            sizes = (1,) * (3 - value.ndim) + value.shape
            normed = t.combined(node.name, op, normed.tensor, value.reshape(sizes), ref.shape)
    return normed


def lrn(t: Translator, node: Node) -> Value | None:
    ref = t.channelwise(node.input(0))
    size = int(node.get("size", 1))
    if ref is None or size > WIDEST_WINDOW:
        return None
    numbers = (float(size), *(float(node.get(*each)) for each in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))))
    return t.across(node.name, "lrn", ref, numbers)


WIDEST_WINDOW = 32
"""Channels: workers know no wider one."""


def softmax(op: str) -> Rule:
    def rule(t: Translator, node: Node) -> Value | None:
        ref = t.channelwise(node.input(0))
        newer = t.opset(node) >= SOFTMAX_OF_ONE_AXIS
        if ref is None or node.get("axis", -1 if newer else 1) % len(ref.shape) != 1:
            return None
        return t.across(node.name, op, ref) if newer or math.prod(ref.shape[2:]) == 1 else None

    return rule
