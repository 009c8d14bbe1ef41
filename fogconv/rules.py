"""Which ATen operations become layers, and how.

A rule gets the translator, the node and its arguments by name. It adds layers and returns the node's value, or returns
None: then torch computes the node on the master. Element-wise rules apply only where an operand is a map already;
between hosted values (a transformer's token sequences) nothing is gained by leaving torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from fogconv.fusion import AnyArray
from fogconv.geometry import ConvSpec, PoolSpec
from fogconv.layers import Add, Affine, Concat, Conv, Gate, GlobalPool, Pool, Shuffle, Slice
from fogconv.translate import Const, Many, Padded, Ref, Rule, Shape, Translator, Value, as_numpy, shape_of

Args = Mapping[str, Any]


def _pair(value: Any, default: tuple[int, int] | None = None) -> tuple[int, int]:
    """torch's int-or-list, an empty list meaning the default."""
    if isinstance(value, int):
        return (value, value)
    if not value and default is not None:
        return default
    return (int(value[0]), int(value[-1]))


# --- convolutions and linear layers -----------------------------------------------------------------------------------


def conv(t: Translator, node: fx.Node, a: Args) -> Value | None:
    weight = t.const(a["weight"])
    if weight is None or weight.ndim != 4 or a.get("transposed") or not _constant_or_none(t, a["bias"]):
        return None
    source_value = t.values[a["input"]]
    around = source_value.padding if isinstance(source_value, Padded) else (0, 0, 0, 0)
    source = source_value.tensor if isinstance(source_value, Padded) else t.as_map(a["input"])
    if source is None:
        return None
    dilation = _pair(a["dilation"])
    padding = _conv_padding(a["padding"], (weight.shape[2], weight.shape[3]), dilation)
    read = t.tensors[source]
    spec = ConvSpec(
        in_channels=read.channels,
        out_channels=weight.shape[0],
        height=read.height,
        width=read.width,
        kernel=(weight.shape[2], weight.shape[3]),
        stride=_pair(a["stride"]),
        padding=tuple(ours + theirs for ours, theirs in zip(around, padding, strict=True)),  # type: ignore[arg-type]
        dilation=dilation,
        groups=int(a["groups"]),
        batch=t.batch,
    )
    name = t.name(node)
    target = t.map_of(name, spec.out_channels, spec.out_height, spec.out_width)
    bias = t.const(a["bias"])
    t.items.append(
        Conv(name, source, target, spec, t.array(name, weight), None if bias is None else t.array(f"{name}.bias", bias))
    )
    return Ref(target, shape_of(node))


def _constant_or_none(t: Translator, argument: object) -> bool:
    return argument is None or t.const(argument) is not None


def _conv_padding(padding: Any, kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int, int, int]:
    if padding == "valid":
        return (0, 0, 0, 0)
    if padding == "same":  # torch puts the odd zero at the end
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
    rows, columns = _pair(padding)
    return (rows, rows, columns, columns)


def linear(t: Translator, node: fx.Node, a: Args) -> Value | None:
    return _linear(t, node, a["input"], t.const(a["weight"]), a["bias"])


def addmm(t: Translator, node: fx.Node, a: Args) -> Value | None:
    weight = t.const(a["mat2"])
    bias = t.const(a["self"])
    if weight is None or bias is None or bias.ndim != 1 or a["beta"] != 1 or a["alpha"] != 1:
        return None
    return _linear(t, node, a["mat1"], weight.t(), a["self"])


def mm(t: Translator, node: fx.Node, a: Args) -> Value | None:
    weight = t.const(a["mat2"])
    return None if weight is None else _linear(t, node, a["self"], weight.t(), None)


def _linear(t: Translator, node: fx.Node, source: object, weight: torch.Tensor | None, bias: object) -> Value | None:
    """A linear layer over a flattened map is a conv whose kernel covers the map."""
    ref = t.ref(source)
    if ref is None or weight is None or not _constant_or_none(t, bias):
        return None
    read = t.tensors[ref.tensor]
    features = read.channels * read.height * read.width
    if ref.shape[-1] != features or math.prod(ref.shape[:-1]) != t.batch or weight.shape[1] != features:
        return None
    outputs = int(weight.shape[0])
    spec = ConvSpec(
        read.channels, outputs, read.height, read.width, kernel=(read.height, read.width), groups=1, batch=t.batch
    )
    name = t.name(node)
    target = t.map_of(name, outputs, 1, 1)
    offset = t.const(bias)
    t.items.append(
        Conv(
            name,
            ref.tensor,
            target,
            spec,
            t.array(name, weight.reshape(spec.weight_shape)),
            None if offset is None else t.array(f"{name}.bias", offset),
            linear=True,
        )
    )
    return Ref(target, shape_of(node))


def pad(t: Translator, node: fx.Node, a: Args) -> Value | None:
    """Zeros before a conv are left to the conv; a pad of nothing is nothing."""
    amounts = [int(amount) for amount in a["pad"]]
    if not any(amounts):
        return t.ref(a["self"])
    zeros = a.get("mode", "constant") == "constant" and not a["value"]
    readers_merge = all(_reads_as_conv(t, reader, node) for reader in node.users)
    if not zeros or min(amounts) < 0 or any(amounts[4:]) or not readers_merge or t.ref(a["self"]) is None:
        return None
    source = t.as_map(a["self"])
    left, right, top, bottom = (*amounts, 0, 0)[:4]
    return None if source is None else Padded(source, (top, bottom, left, right))


def _reads_as_conv(t: Translator, reader: fx.Node, source: fx.Node) -> bool:
    name = getattr(getattr(reader.target, "_schema", None), "name", "")
    if name not in ("aten::conv2d", "aten::convolution") or reader.args[0] is not source:
        return False
    return isinstance(reader.args[1], fx.Node) and t.const(reader.args[1]) is not None


# --- per channel and per element --------------------------------------------------------------------------------------


def _affine(
    t: Translator, node: fx.Node, ref: Ref, scale: AnyArray | None, shift: AnyArray | None, activation: str | None = None
) -> Ref:
    name = t.name(node)
    read = t.tensors[ref.tensor]
    target = t.map_of(name, read.channels, read.height, read.width)
    keys = [
        None if value is None else t.array(f"{name}.{what}", value) for what, value in (("scale", scale), ("shift", shift))
    ]
    t.items.append(Affine(name, ref.tensor, target, keys[0], keys[1], activation))
    return Ref(target, ref.shape)


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
    return _affine(t, node, ref, scale, shift)


def batch_norm_tuple(t: Translator, node: fx.Node, a: Args) -> Value | None:
    normed = batch_norm(t, node, a)
    return Many((normed, None, None)) if isinstance(normed, Ref) else None


def activation(kind: str) -> Rule:
    def rule(t: Translator, node: fx.Node, a: Args) -> Value | None:
        ref = t.ref(a["self"])
        return None if ref is None else _affine(t, node, ref, None, None, kind)

    return rule


def clamp(t: Translator, node: fx.Node, a: Args) -> Value | None:
    """hardtanh(0, 6), clamp(0, 6), clamp(min=0) and clamp_min(0)."""
    low = a.get("min", a.get("min_val"))
    high = a.get("max", a.get("max_val"))
    ref = t.ref(a["self"])
    if ref is None or isinstance(low, fx.Node) or low != 0 or high not in (None, 6, float("inf")):
        return None
    return _affine(t, node, ref, None, None, "relu6" if high == 6 else "relu")


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
    return _sum(t, node, a["self"], a["other"], 1.0, -a["alpha"], maps=False)


def subtract_from(t: Translator, node: fx.Node, a: Args) -> Value | None:
    ref, shift = t.ref(a["self"]), a["other"]
    offset = None if ref is None else _per_channel(t, ref, shift, shape_of(node))
    return None if ref is None or offset is None else _affine(t, node, ref, np.full_like(offset, -a["alpha"]), offset)


def _sum(
    t: Translator, node: fx.Node, one: object, other: object, sign: float, alpha: float, *, maps: bool = True
) -> Value | None:
    ref = t.ref(one)
    if ref is not None and (shift := _per_channel(t, ref, other, shape_of(node))) is not None:
        return _affine(t, node, ref, None, shift * alpha)
    ref = t.ref(other)
    if ref is not None and alpha == 1 and (shift := _per_channel(t, ref, one, shape_of(node))) is not None:
        return _affine(t, node, ref, None, shift * sign)
    return _sum_of_maps(t, node, one, other) if maps and alpha == 1 else None


def _sum_of_maps(t: Translator, node: fx.Node, one: object, other: object) -> Value | None:
    if not isinstance(one, fx.Node) or not isinstance(other, fx.Node):
        return None
    refs = [t.ref(one), t.ref(other)]
    if not any(refs) or shape_of(one) != shape_of(other):
        return None
    if refs[0] and refs[1] and t.tensors[refs[0].tensor].shape == t.tensors[refs[1].tensor].shape:
        sources = (refs[0].tensor, refs[1].tensor)
    else:
        maps = [t.as_map(one), t.as_map(other)]
        if maps[0] is None or maps[1] is None:
            return None
        sources = (maps[0], maps[1])
    name = t.name(node)
    read = t.tensors[sources[0]]
    target = t.map_of(name, read.channels, read.height, read.width)
    t.items.append(Add(name, sources, target))
    return Ref(target, shape_of(node))


def multiply(t: Translator, node: fx.Node, a: Args) -> Value | None:
    for one, other in ((a["self"], a["other"]), (a["other"], a["self"])):
        ref = t.ref(one)
        if ref is not None and (scale := _per_channel(t, ref, other, shape_of(node))) is not None:
            return _affine(t, node, ref, scale, None)
    return _gate(t, node, a["self"], a["other"]) or _gate(t, node, a["other"], a["self"])


def divide(t: Translator, node: fx.Node, a: Args) -> Value | None:
    ref = t.ref(a["self"])
    if ref is None or a.get("rounding_mode") is not None:
        return None
    divisor = _per_channel(t, ref, a["other"], shape_of(node))
    return None if divisor is None else _affine(t, node, ref, 1.0 / divisor, None)


def _gate(t: Translator, node: fx.Node, source: object, gate: object) -> Value | None:
    """x · gate with the gate (N, C, 1, 1); x · sigmoid(x) is silu and x · hardsigmoid(x) hardswish."""
    if not isinstance(source, fx.Node) or not isinstance(gate, fx.Node) or not (t.ref(source) or t.ref(gate)):
        return None
    self_gated = _self_gated(t, node, source, gate)
    if self_gated is not None:
        return self_gated
    if len(shape_of(gate)) != 4 or shape_of(gate)[2:] != (1, 1) or shape_of(source)[:2] != shape_of(gate)[:2]:
        return None
    if not t.could_be_map(source) or not t.could_be_map(gate):
        return None
    source_map, gate_map = t.as_map(source), t.as_map(gate)
    if source_map is None or gate_map is None:
        return None
    name = t.name(node)
    read = t.tensors[source_map]
    target = t.map_of(name, read.channels, read.height, read.width)
    t.items.append(Gate(name, source_map, gate_map, target))
    return Ref(target, shape_of(node))


def _self_gated(t: Translator, node: fx.Node, source: fx.Node, gate: fx.Node) -> Value | None:
    ref, gate_ref = t.ref(source), t.ref(gate)
    if ref is None or gate_ref is None or ref.shape != gate_ref.shape:
        return None
    for item in t.items:
        if isinstance(item, Affine) and item.target == gate_ref.tensor:
            kinds = {"sigmoid": "silu", "hardsigmoid": "hardswish"}
            if item.source == ref.tensor and item.scale is item.shift is None and item.activation in kinds:
                return _affine(t, node, ref, None, None, kinds[item.activation])
    return None


# --- pooling ----------------------------------------------------------------------------------------------------------


def _pool(t: Translator, node: fx.Node, source: object, kind: str, **geometry: Any) -> Value | None:
    number = t.as_map(source)
    if number is None:
        return None
    read = t.tensors[number]
    rows, columns = geometry.pop("padding")
    spec = PoolSpec(
        kind, read.channels, read.height, read.width, padding=(rows, rows, columns, columns), batch=t.batch, **geometry
    )
    name = t.name(node)
    target = t.map_of(name, read.channels, spec.out_height, spec.out_width)
    t.items.append(Pool(name, number, target, spec))
    return Ref(target, (t.batch, read.channels, spec.out_height, spec.out_width))


def max_pool(t: Translator, node: fx.Node, a: Args) -> Value | None:
    kernel = _pair(a["kernel_size"])
    return _pool(
        t,
        node,
        a["self"],
        "max",
        kernel=kernel,
        stride=_pair(a["stride"], kernel),
        padding=_pair(a["padding"]),
        dilation=_pair(a["dilation"]),
        ceil_mode=bool(a["ceil_mode"]),
    )


def max_pool_tuple(t: Translator, node: fx.Node, a: Args) -> Value | None:
    """With indices: only where nobody reads them."""
    if any(reader.args[1:] != (0,) for reader in node.users):
        return None
    pooled = max_pool(t, node, a)
    return Many((pooled, None)) if isinstance(pooled, Ref) else None


def average_pool(t: Translator, node: fx.Node, a: Args) -> Value | None:
    kernel = _pair(a["kernel_size"])
    return _pool(
        t,
        node,
        a["self"],
        "avg",
        kernel=kernel,
        stride=_pair(a["stride"], kernel),
        padding=_pair(a["padding"]),
        ceil_mode=bool(a["ceil_mode"]),
        count_include_pad=bool(a["count_include_pad"]),
        divisor=a["divisor_override"],
    )


def adaptive_average(t: Translator, node: fx.Node, a: Args) -> Value | None:
    return _adaptive(t, node, a["self"], "avg")


def adaptive_max_tuple(t: Translator, node: fx.Node, a: Args) -> Value | None:
    if any(reader.args[1:] != (0,) for reader in node.users):
        return None
    pooled = _adaptive(t, node, a["self"], "max")
    return Many((pooled, None)) if isinstance(pooled, Ref) else None


def _adaptive(t: Translator, node: fx.Node, source: object, kind: str) -> Value | None:
    """Windows are all alike where the output size divides the input size; otherwise torch does it."""
    if not isinstance(source, fx.Node) or not t.could_be_map(source):
        return None
    _, _, height, width = shape_of(source)
    result = node.meta["val"]
    rows, columns = tuple(int(size) for size in (result[0] if isinstance(result, tuple | list) else result).shape)[-2:]
    if (rows, columns) == (height, width):
        return t.ref(source)
    if (rows, columns) == (1, 1) and kind == "avg":
        return _global_pool(t, node, source)
    if height % rows or width % columns:
        return None
    window = (height // rows, width // columns)
    return _pool(t, node, source, kind, kernel=window, stride=window, padding=(0, 0))


def _global_pool(t: Translator, node: fx.Node, source: fx.Node) -> Value | None:
    number = t.as_map(source)
    if number is None:
        return None
    read = t.tensors[number]
    if (read.height, read.width) == (1, 1):
        return Ref(number, shape_of(node))
    name = t.name(node)
    target = t.map_of(name, read.channels, 1, 1)
    t.items.append(GlobalPool(name, number, target))
    return Ref(target, shape_of(node))


def mean(t: Translator, node: fx.Node, a: Args) -> Value | None:
    source = a["self"]
    dims = a["dim"]
    if not t.could_be_map(source) or not dims or a.get("dtype") is not None:
        return None
    if {dim % 4 for dim in dims} != {2, 3} or t.ref(source) is None:
        return None
    return _global_pool(t, node, source)


# --- moving channels --------------------------------------------------------------------------------------------------


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
    name = t.name(node)
    target = t.map_of(name, read.channels, read.height, read.width)
    t.items.append(Shuffle(name, ref.tensor, target, groups))
    return Ref(target, shape_of(node))


def const_copy(t: Translator, node: fx.Node, a: Args) -> Value | None:
    value = t.const(a["self"])
    return None if value is None else Const(value)


RULES: Mapping[str, Rule] = {
    "conv2d": conv,
    "convolution": conv,
    "linear": linear,
    "addmm": addmm,
    "mm": mm,
    "pad": pad,
    "constant_pad_nd": pad,
    "batch_norm": batch_norm,
    "_native_batch_norm_legit_no_training": batch_norm_tuple,
    "relu": activation("relu"),
    "relu6": activation("relu6"),
    "silu": activation("silu"),
    "hardswish": activation("hardswish"),
    "sigmoid": activation("sigmoid"),
    "hardsigmoid": activation("hardsigmoid"),
    "hardtanh": clamp,
    "clamp": clamp,
    "clamp_min": clamp,
    "add": add,
    "sub": subtract,
    "rsub": subtract_from,
    "mul": multiply,
    "div": divide,
    "max_pool2d": max_pool,
    "max_pool2d_with_indices": max_pool_tuple,
    "avg_pool2d": average_pool,
    "adaptive_avg_pool2d": adaptive_average,
    "_adaptive_avg_pool2d": adaptive_average,
    "adaptive_max_pool2d": adaptive_max_tuple,
    "mean": mean,
    "cat": concatenate,
    "concat": concatenate,
    "chunk": split,
    "split": split,
    "split_with_sizes": split,
    "slice": slice_,
    "select": select,
    "transpose": transpose,
    "swapaxes": transpose,
    "permute": permute,
    **dict.fromkeys(
        ("dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "detach", "alias", "lift_fresh_copy"), same
    ),
    **dict.fromkeys(("_to_copy", "to"), same),
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "_reshape_alias", "flatten", "unflatten", "squeeze", "unsqueeze", "expand"),
        reshape,
    ),
}
