"""Operators that move channels without arithmetic (concatenate, slice, shuffle), and operators that move nothing."""

from __future__ import annotations

import math

from fogconv.frontend.building.values import Many, Ref, Value
from fogconv.frontend.onnx.translate import Node, Translator


def concatenate(t: Translator, node: Node) -> Value | None:
    shape = t.shape(node.outputs[0])
    if shape is None or node.get("axis", 0) % len(shape) != 1 or not any(t.ref(name) for name in node.inputs):
        return None
    refs = [t.channelwise(name) for name in node.inputs]
    if all(refs) and len({t.tensors[ref.tensor].shape[2:] for ref in refs if ref}) == 1:
        return t.concat(node.name, [ref.tensor for ref in refs if ref], shape)
    if not all(t.could_be_map(name) for name in node.inputs):
        return None
    maps = [t.as_map(name) for name in node.inputs]
    sources = [number for number in maps if number is not None]
    return t.concat(node.name, sources, shape) if len(sources) == len(maps) else None


def split(t: Translator, node: Node) -> Value | None:
    """Along the channels."""
    ref = t.channelwise(node.input(0))
    shapes = [t.shape(name) for name in node.outputs]
    if ref is None or node.get("axis", 0) % len(ref.shape) != 1:
        return None
    pieces, start = [], 0
    for shape in shapes:
        if shape is None or len(shape) != len(ref.shape) or not shape[1]:
            return None
        pieces.append(t.channels(node.name, ref, start, shape[1], shape))
        start += shape[1]
    return Many(tuple(pieces))


def slice_(t: Translator, node: Node) -> Value | None:
    """Some of the channels, or everything. Before opset 10 the limits were attributes."""
    given = [node.attributes.get(name) for name in ("starts", "ends", "axes")]
    if node.input(1):
        given = [t.const(node.input(index)) for index in (1, 2, 3)]
    whole, shape = t.ref(node.input(0)), t.shape(node.outputs[0])
    steps = t.const(node.input(4)) if node.input(4) else (1,)
    if whole is None or shape is None or steps is None or any(int(step) != 1 for step in steps):
        return None
    if shape == whole.shape:
        return whole
    ref = t.channelwise(node.input(0))
    starts, _, axes = given
    if ref is None or starts is None:
        return None
    over = range(len(starts)) if axes is None else axes
    limits = {int(axis) % len(ref.shape): int(start) for axis, start in zip(over, starts, strict=True)}
    if any(shape[axis] != ref.shape[axis] for axis in range(len(shape)) if axis != 1) or not shape[1]:
        return None
    start, channels = limits.get(1, 0), ref.shape[1]
    return t.channels(node.name, ref, max(0, min(start + channels if start < 0 else start, channels)), shape[1], shape)


def transpose(t: Translator, node: Node) -> Value | None:
    ref, shape = t.ref(node.input(0)), t.shape(node.outputs[0])
    if shape is None:
        return None
    order = [int(axis) for axis in node.get("perm", tuple(range(len(shape)))[::-1])]
    permuted = None if ref is None else t.permuted(node.name, ref, order, shape)
    return t.moved(node.input(0), order, shape) if permuted is None else permuted


def same(t: Translator, node: Node) -> Value | None:
    return t.ref(node.input(0))


def dropout(t: Translator, node: Node) -> Value | None:
    """Nothing is dropped in inference."""
    training = t.const(node.input(2)) if node.input(2) else False
    alone = len([name for name in node.outputs if name and t.readers.get(name)]) <= 1
    return t.ref(node.input(0)) if alone and training is not None and not bool(training) else None


def reshape(t: Translator, node: Node) -> Value | None:
    """Reshape, Flatten, Squeeze, Unsqueeze: the same elements in the same order."""
    ref, shape = t.ref(node.input(0)), t.shape(node.outputs[0])
    if ref is None or shape is None or math.prod(shape) != math.prod(ref.shape):
        return None
    return Ref(ref.tensor, shape)
