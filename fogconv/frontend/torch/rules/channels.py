"""Operations that move channels without arithmetic (concatenate, slice, shuffle), and operations that move nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import fx

from fogconv.frontend.torch.translate import Args, Many, Ref, Shape, Translator, Value, shape_of
from fogconv.ir.graph import Concat, Shuffle, Slice


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
    if len(sources) == 1:
        return Ref(sources[0], shape)
    name = t.name(node)
    first = t.tensors[sources[0]]
    target = t.map_of(name, sum(t.tensors[number].channels for number in sources), first.height, first.width)
    t.items.append(Concat(name, tuple(sources), target))
    return Ref(target, shape)


def _channels(t: Translator, node: fx.Node, ref: Ref, start: int, count: int, shape: Shape) -> Ref:
    """Channels start … start+count−1, in this shape."""
    read = t.tensors[ref.tensor]
    if count == read.channels:
        return Ref(ref.tensor, shape)
    name = t.name(node)
    target = t.map_of(name, count, read.height, read.width)
    t.items.append(Slice(name, ref.tensor, target, start))
    return Ref(target, shape)


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
        pieces.append(_channels(t, node, ref, start, shape[1], shape))
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
    return _channels(t, node, ref, min(start + channels if start < 0 else start, channels), count, shape_of(node))


def narrow(t: Translator, node: fx.Node, a: Args) -> Value | None:
    ref = t.channelwise(a["self"])
    if ref is None or a["dim"] % len(ref.shape) != 1 or not isinstance(a["start"], int) or not a["length"]:
        return None
    return _channels(t, node, ref, a["start"] % ref.shape[1], a["length"], shape_of(node))


def select(t: Translator, node: fx.Node, a: Args) -> Value | None:
    ref = t.channelwise(a["self"])
    if ref is None or a["dim"] % len(ref.shape) != 1:
        return None
    return _channels(t, node, ref, a["index"] % ref.shape[1], 1, shape_of(node))


def same(t: Translator, node: fx.Node, a: Args) -> Value | None:
    """Operations that change nothing in inference: dropout, contiguous, clone, detach."""
    ref = t.ref(a.get("self", a.get("input")))
    unchanged = isinstance(node.meta["val"], torch.Tensor) and node.meta["val"].dtype == t.dtype
    return ref if ref and unchanged and not a.get("train") and not a.get("training") else None


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
    return _permuted(t, node, ref, order)


def permute(t: Translator, node: fx.Node, a: Args) -> Value | None:
    ref = t.ref(a["self"])
    return None if ref is None else _permuted(t, node, ref, [dim % len(ref.shape) for dim in a["dims"]])


def _permuted(t: Translator, node: fx.Node, ref: Ref, order: Sequence[int]) -> Value | None:
    """Axes of length 1 move freely; (N, g, C/g, H, W) → (N, C/g, g, H, W) is a channel shuffle."""
    long = [axis for axis in order if ref.shape[axis] != 1]
    if long == sorted(long):
        return Ref(ref.tensor, shape_of(node))
    read = t.tensors[ref.tensor]
    if len(ref.shape) < 3:
        return None
    groups, per_group = ref.shape[1:3]
    rest = list(range(3, len(ref.shape)))
    shuffles = list(order) == [0, 2, 1, *rest] and groups * per_group == read.channels and ref.shape[0] == t.batch
    if not shuffles:
        return None
    return _shuffled(t, node, ref, groups)


def channel_shuffle(t: Translator, node: fx.Node, a: Args) -> Value | None:
    ref = t.channelwise(a["self"])
    return None if ref is None else _shuffled(t, node, ref, int(a["groups"]))


def _shuffled(t: Translator, node: fx.Node, ref: Ref, groups: int) -> Ref:
    read = t.tensors[ref.tensor]
    name = t.name(node)
    target = t.map_of(name, read.channels, read.height, read.width)
    t.items.append(Shuffle(name, ref.tensor, target, groups))
    return Ref(target, shape_of(node))
