"""Pooling, adaptive pooling where all its windows are equal, and means and maxima over rows and columns."""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from fogconv.frontend.building.values import Many, Padded, Ref, Shape, Value
from fogconv.frontend.torch.translate import Args, Translator, bind, layer_name, op_name, pair, shape_of


def _pool(t: Translator, node: fx.Node, source: object, kind: str, **geometry: Any) -> Value | None:
    before = t.values.get(source) if isinstance(source, fx.Node) else None
    number = before.tensor if isinstance(before, Padded) else t.as_map(source, flat=True)
    if number is None:
        return None
    rows, columns = geometry.pop("padding")
    around = (rows, rows, columns, columns)
    if isinstance(before, Padded):
        around = tuple(ours + theirs for ours, theirs in zip(around, before.padding, strict=True))
        geometry |= {"count_include_pad": True} if kind == "avg" else {}
    return t.pool(layer_name(node), number, kind, padding=around, **geometry)


def takes(reader: fx.Node, fill: float) -> bool:
    """Whether a pooling can pad by itself what has been padded with ``fill``: a max pool with −∞, an average pool with zeros
    that it counts."""
    name = op_name(reader)
    if name not in ("max_pool2d", "max_pool2d_with_indices", "avg_pool2d"):
        return False
    a = bind(reader)
    if name != "avg_pool2d":
        return fill == -math.inf and not _indices_are_read(reader) and not a["ceil_mode"]
    counts = a["count_include_pad"] or pair(a["padding"]) == (0, 0)
    return fill == 0.0 and bool(counts) and not a["ceil_mode"]


def max_pool(t: Translator, node: fx.Node, a: Args) -> Value | None:
    kernel = pair(a["kernel_size"])
    return _pool(
        t,
        node,
        a["self"],
        "max",
        kernel=kernel,
        stride=pair(a["stride"], kernel),
        padding=pair(a["padding"]),
        dilation=pair(a["dilation"]),
        ceil_mode=bool(a["ceil_mode"]),
    )


def max_pool_tuple(t: Translator, node: fx.Node, a: Args) -> Value | None:
    """Max pooling that returns indices: only where these are not used."""
    if _indices_are_read(node):
        return None
    pooled = max_pool(t, node, a)
    return Many((pooled, None)) if isinstance(pooled, Ref) else None


def _indices_are_read(node: fx.Node) -> bool:
    return any(reader.users and reader.args[1:] != (0,) for reader in node.users)


def average_pool(t: Translator, node: fx.Node, a: Args) -> Value | None:
    kernel = pair(a["kernel_size"])
    return _pool(
        t,
        node,
        a["self"],
        "avg",
        kernel=kernel,
        stride=pair(a["stride"], kernel),
        padding=pair(a["padding"]),
        ceil_mode=bool(a["ceil_mode"]),
        count_include_pad=bool(a["count_include_pad"]),
        divisor=a.get("divisor_override"),
    )


def adaptive_average(t: Translator, node: fx.Node, a: Args) -> Value | None:
    return _adaptive(t, node, a["self"], "avg")


def adaptive_max_tuple(t: Translator, node: fx.Node, a: Args) -> Value | None:
    if _indices_are_read(node):
        return None
    pooled = _adaptive(t, node, a["self"], "max")
    return Many((pooled, None)) if isinstance(pooled, Ref) else None


def _adaptive(t: Translator, node: fx.Node, source: object, kind: str) -> Value | None:
    """All windows are equal where the output size divides the input size; otherwise torch computes it."""
    if not isinstance(source, fx.Node) or not t.could_be_map(source):
        return None
    _, _, height, width = shape_of(source)
    result = node.meta["val"]
    rows, columns = tuple(int(size) for size in (result[0] if isinstance(result, tuple | list) else result).shape)[-2:]
    if (rows, columns) == (height, width):
        return t.ref(source)
    if (rows, columns) == (1, 1) and kind == "avg":
        return _global_pool(t, node, source)
    if (rows, columns) == (1, 1):
        return _global_max(t, node, source, (*shape_of(source)[:2], 1, 1))
    if height % rows or width % columns:
        return None
    window = (height // rows, width // columns)
    return _pool(t, node, source, kind, kernel=window, stride=window, padding=(0, 0))


def _global_pool(t: Translator, node: fx.Node, source: fx.Node) -> Value | None:
    number = t.as_map(source)
    return None if number is None else t.global_pool(layer_name(node), number, shape_of(node))


def _global_max(t: Translator, node: fx.Node, source: fx.Node, shape: Shape) -> Value | None:
    number = t.as_map(source)
    return None if number is None else t.global_max(layer_name(node), number, shape)


def maximum(t: Translator, node: fx.Node, a: Args) -> Value | None:
    """amax over rows and columns."""
    source, dims = a["self"], a["dim"]
    if not t.could_be_map(source) or not dims or {dim % 4 for dim in dims} != {2, 3} or t.ref(source) is None:
        return None
    return _global_max(t, node, source, shape_of(node))


def average_of_sequence(t: Translator, node: fx.Node, a: Args) -> Value | None:
    """adaptive_avg_pool1d to one number."""
    number = t.as_map(a["self"], flat=True) if shape_of(node)[2:] == (1,) else None
    return None if number is None else t.global_pool(layer_name(node), number, shape_of(node))


def mean(t: Translator, node: fx.Node, a: Args) -> Value | None:
    source = a["self"]
    dims = a["dim"]
    if not t.could_be_map(source) or not dims or a.get("dtype") is not None:
        return None
    if {dim % 4 for dim in dims} != {2, 3} or t.ref(source) is None:
        return None
    return _global_pool(t, node, source)
