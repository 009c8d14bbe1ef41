"""Operations that move channels without arithmetic (concatenate, slice, shuffle), and operations that move nothing."""

from __future__ import annotations

import math

import torch
from torch import fx

from fogconv.frontend.building.values import Many, Ref, Value
from fogconv.frontend.torch.translate import Args, Translator, layer_name, shape_of


def concatenate(t: Translator, node: fx.Node, a: Args) -> Value | None:
    parts = list(a["tensors"])
    shape = shape_of(node)
    if a["dim"] % max(1, len(shape)) != 1 or not any(t.ref(part) for part in parts):
        return None
    refs = [t.channelwise(part) for part in parts]
    areas = {t.tensors[ref.tensor].shape[2:] for ref in refs if ref}
    if all(refs) and len(areas) == 1:
        sources = [ref.tensor for ref in refs if ref]
    else:
        if not all(t.could_be_map(part) for part in parts):
            return None
        maps = [t.as_map(part) for part in parts]
        sources = [number for number in maps if number is not None]
        if len(sources) != len(parts):
            return None
    return t.concat(layer_name(node), sources, shape)


def split(t: Translator, node: fx.Node, a: Args) -> Value | None:
    """chunk, split and split_with_sizes along the channels."""
    source = a["self"]
    ref = t.channelwise(source)
    results = [tuple(int(size) for size in piece.shape) for piece in node.meta["val"]]
    if ref is None or a["dim"] % len(ref.shape) != 1 or any(not shape[1] for shape in results):
        return None
    pieces = []
    start = 0
    for shape in results:
        pieces.append(t.channels(layer_name(node), ref, start, shape[1], shape))
        start += shape[1]
    return Many(tuple(pieces))


def slice_(t: Translator, node: fx.Node, a: Args) -> Value | None:
    whole = t.ref(a["self"])
    if whole is not None and shape_of(node) == whole.shape:
        return whole
    ref = t.channelwise(a["self"])
    count = shape_of(node)[1] if ref else 0
    if ref is None or a["dim"] % len(ref.shape) != 1 or a["step"] != 1 or not count:
        return None
    start = a["start"] or 0
    channels = ref.shape[1]
    return t.channels(layer_name(node), ref, min(start + channels if start < 0 else start, channels), count, shape_of(node))


def narrow(t: Translator, node: fx.Node, a: Args) -> Value | None:
    ref = t.channelwise(a["self"])
    if ref is None or a["dim"] % len(ref.shape) != 1 or not isinstance(a["start"], int) or not a["length"]:
        return None
    return t.channels(layer_name(node), ref, a["start"] % ref.shape[1], a["length"], shape_of(node))


def select(t: Translator, node: fx.Node, a: Args) -> Value | None:
    ref = t.channelwise(a["self"])
    if ref is None or a["dim"] % len(ref.shape) != 1:
        return None
    return t.channels(layer_name(node), ref, a["index"] % ref.shape[1], 1, shape_of(node))


def same(t: Translator, node: fx.Node, a: Args) -> Value | None:
    """Operations that change nothing in inference: dropout, contiguous, clone, detach."""
    argument = a.get("self", a.get("input"))
    ref = t.elements(argument)
    unchanged = isinstance(node.meta["val"], torch.Tensor) and node.meta["val"].dtype == t.dtype
    if ref is None or not unchanged or a.get("train") or a.get("training"):
        return None
    return t.as_given(argument, ref)


def reshape(t: Translator, node: fx.Node, a: Args) -> Value | None:
    """view, flatten, squeeze, …: the same elements in the same order."""
    ref = t.ref(a["self"])
    if ref is None or math.prod(shape_of(node)) != math.prod(ref.shape) or node.meta["val"].dtype != t.dtype:
        return None
    return Ref(ref.tensor, shape_of(node))


def transpose(t: Translator, node: fx.Node, a: Args) -> Value | None:
    ref = t.ref(a["self"])
    if ref is None or not ref.shape:
        return None
    order = list(range(len(ref.shape)))
    one, other = a["dim0"] % len(order), a["dim1"] % len(order)
    order[one], order[other] = order[other], order[one]
    return t.permuted(layer_name(node), ref, order, shape_of(node))


def permute(t: Translator, node: fx.Node, a: Args) -> Value | None:
    order = [dim % len(shape_of(node)) for dim in a["dims"]]
    ref, moved = t.ref(a["self"]), t.moved(a["self"], order, shape_of(node))
    permuted = None if ref is None else t.permuted(layer_name(node), ref, order, shape_of(node))
    return moved if permuted is None else permuted


def channel_shuffle(t: Translator, node: fx.Node, a: Args) -> Value | None:
    ref = t.channelwise(a["self"])
    return None if ref is None else t.shuffled(layer_name(node), ref, int(a["groups"]), shape_of(node))
