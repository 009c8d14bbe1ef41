"""Operators that change rows and columns: interpolation, transposed conv, slices with steps, padding, pixel shuffle."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from fogconv.errors import GeometryError
from fogconv.frontend.building.values import Padded, Value, as_sides
from fogconv.frontend.space import phases, resampling
from fogconv.frontend.torch.rules import channels, conv, pooling
from fogconv.frontend.torch.translate import Args, Rule, Translator, layer_name, op_name, pair, shape_of, weights
from fogconv.ir.geometry import Taps


def upsample(mode: str) -> Rule:
    """``mode``: nearest, nearest_exact, linear or cubic. Positions are in the type in which torch computes them."""

    def rule(t: Translator, node: fx.Node, a: Args) -> Value | None:
        source = t.as_map(a.get("self", a.get("input")), flat=True)
        if source is None:
            return None
        read, (_, height, width) = t.tensors[source], as_sides(shape_of(node))
        scales = a.get("scale_factors") or (a.get("scales_h"), a.get("scales_w", a.get("scales")))
        corners = bool(a.get("align_corners"))
        kind = np.dtype(np.float64) if t.dtype == torch.float64 else np.dtype(np.float32)
        rows, columns = (
            _taps(mode, size, out, scale, corners, kind)
            for size, out, scale in ((read.height, height, scales[0]), (read.width, width, scales[1]))
        )
        return t.resample(layer_name(node), source, rows, columns)

    return rule


def _taps(mode: str, size: int, out: int, scale: float | None, corners: bool, kind: np.dtype[Any]) -> Taps:
    if size == out and mode in ("nearest", "linear"):
        return resampling.identity(size)
    if mode.startswith("nearest"):
        # torch has the step in fp32 here, whatever the map's type.
        step = np.float32(1.0 / scale if scale else np.float32(size) / np.float32(out))
        k = np.arange(out, dtype=np.float32)
        at = np.floor((k + np.float32(0.5)) * step if mode == "nearest_exact" else k * step)
        if mode == "nearest" and out == 2 * size:
            at = np.arange(out) // 2
        return resampling.picked(size, np.minimum(at, size - 1).astype(int))
    k, one, half = np.arange(out, dtype=kind), kind.type(1), kind.type(0.5)
    if corners:
        at = k * (kind.type(size - 1) / kind.type(out - 1) if out > 1 else kind.type(0))
    else:
        at = (k + half) * (kind.type(one / kind.type(scale)) if scale else kind.type(size) / kind.type(out)) - half
    return resampling.cubic(size, at) if mode == "cubic" else resampling.linear(size, at)


def conv_transpose(t: Translator, node: fx.Node, a: Args) -> Value | None:
    weight, source = t.const(a["weight"]), t.as_map(a["input"], flat=True)
    bias = t.const(a["bias"])
    if source is None or weight is None or weight.ndim not in (3, 4) or (a["bias"] is not None and bias is None):
        return None
    weight = conv.as_rows(weight)
    try:
        return phases.conv_transpose(
            t,
            layer_name(node),
            source,
            weights(weight),
            None if bias is None else weights(bias),
            stride=pair(a["stride"]),
            before=pair(a["padding"]),
            dilation=pair(a["dilation"]),
            groups=int(a["groups"]),
            size=as_sides(shape_of(node))[1:],
        )
    except GeometryError:
        return None


def convolution(t: Translator, node: fx.Node, a: Args) -> Value | None:
    return conv_transpose(t, node, a) if a["transposed"] else conv.conv(t, node, a)


def pixel_shuffle(t: Translator, node: fx.Node, a: Args) -> Value | None:
    source = t.as_map(a["self"])
    if source is None:
        return None
    return phases.depth_to_space(t, layer_name(node), source, int(a["upscale_factor"]), phases_first=False)


def pixel_unshuffle(t: Translator, node: fx.Node, a: Args) -> Value | None:
    source = t.as_map(a["self"])
    if source is None:
        return None
    factor = int(a["downscale_factor"])
    return phases.space_to_depth(t, layer_name(node), source, factor, shape_of(node), phases_first=False)


def slice_(t: Translator, node: fx.Node, a: Args) -> Value | None:
    """Channels, or rows or columns in steps."""
    value = channels.slice_(t, node, a)
    if value is not None or t.ref(a["self"]) is None or not t.could_be_map(node):
        return value
    axis, limits = a["dim"] % 4, slice(a["start"], a["end"], a["step"])
    return _picked(t, node, a, {axis: limits}) if axis in (2, 3) and 0 not in shape_of(node) else None


def flip(t: Translator, node: fx.Node, a: Args) -> Value | None:
    axes = {dim % 4 for dim in a["dims"]} if t.could_be_map(node) else set()
    return _picked(t, node, a, dict.fromkeys(axes, slice(None, None, -1))) if axes and axes <= {2, 3} else None


def _picked(t: Translator, node: fx.Node, a: Args, limits: dict[int, slice]) -> Value | None:
    """Rows (axis 2) and columns (3) by slices."""
    source = t.as_map(a["self"])
    if source is None:
        return None
    sizes = t.tensors[source].shape
    rows, columns = (
        resampling.picked(sizes[axis], range(*limits.get(axis, slice(None)).indices(sizes[axis]))) for axis in (2, 3)
    )
    return t.resample(layer_name(node), source, rows, columns)


def pad(t: Translator, node: fx.Node, a: Args) -> Value | None:
    """Of zeros before convs it becomes theirs, so does one of −∞ before max pools; every other is a layer."""
    amounts = [int(amount) for amount in a.get("pad", a.get("padding"))]
    if not any(amounts):
        return t.ref(a["self"])
    source = t.as_map(a["self"], flat=True) if t.ref(a["self"]) is not None and not any(amounts[4:]) else None
    if source is None:
        return None
    left, right, top, bottom = (*amounts, 0, 0)[:4]
    if len(shape_of(node)) == 3 and (top or bottom):
        return None
    named = {"reflection_pad2d": "reflect", "replication_pad2d": "replicate"}
    named |= {"reflection_pad1d": "reflect", "replication_pad1d": "replicate"}
    mode = str(named.get(op_name(node), a.get("mode", "constant")))
    fill = float(a.get("value") or 0.0)
    if mode == "constant" and min(amounts) >= 0 and node.users and all(_takes(t, user, node, fill) for user in node.users):
        return Padded(source, (top, bottom, left, right))
    read, mode = t.tensors[source], {"replicate": "edge", "circular": "wrap"}.get(mode, mode)
    rows = resampling.padded(read.height, top, bottom, mode)
    columns = resampling.padded(read.width, left, right, mode)
    if rows is None or columns is None:
        return None
    return t.resample(layer_name(node), source, rows, columns, fill)


def _takes(t: Translator, reader: fx.Node, source: fx.Node, fill: float) -> bool:
    """Whether a reader can pad by itself what has been padded with ``fill``."""
    if not reader.args or reader.args[0] is not source:
        return False
    return conv.takes(t, reader, fill) or pooling.takes(reader, fill)
