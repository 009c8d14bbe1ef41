"""Convolutions, with the padding before them, and linear layers as convs over a whole map."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from fogconv.frontend.building.values import Many, Padded, Ref, Value
from fogconv.frontend.fusion import AnyArray
from fogconv.frontend.space import phases
from fogconv.frontend.torch.translate import Args, Rule, Translator, bind, layer_name, pair, shape_of, weights


def conv(t: Translator, node: fx.Node, a: Args) -> Value | None:
    weight = t.const(a["weight"])
    if weight is None or weight.ndim not in (3, 4) or a.get("transposed") or not _constant_or_none(t, a["bias"]):
        return None
    weight = as_rows(weight)
    source_value = t.values[a["input"]]
    around = source_value.padding if isinstance(source_value, Padded) else (0, 0, 0, 0)
    source = source_value.tensor if isinstance(source_value, Padded) else t.as_map(a["input"], flat=True)
    if source is None:
        return None
    dilation = pair(a["dilation"])
    padding = _conv_padding(a["padding"], (weight.shape[2], weight.shape[3]), dilation)
    return phases.conv(
        t,
        layer_name(node),
        source,
        weights(weight),
        _bias(t, a["bias"]),
        stride=pair(a["stride"]),
        padding=tuple(ours + theirs for ours, theirs in zip(around, padding, strict=True)),  # type: ignore[arg-type]
        dilation=dilation,
        groups=int(a["groups"]),
    )


def as_rows(weight: torch.Tensor) -> torch.Tensor:
    """The weight of a conv on sequences as one on maps of one row."""
    return weight[:, :, None] if weight.ndim == 3 else weight


_OF_ONE_ROW = {"kernel_size": 1, "stride": 1, "dilation": 1, "padding": 0, "output_padding": 0, "scale_factors": None}


def one_row(rule: Rule) -> Rule:
    """A rule on maps that takes sequences (N, C, L), too, as maps of one row."""

    def wrapped(t: Translator, node: fx.Node, a: Args) -> Value | None:
        source = a.get("input", a.get("self"))
        fake = source.meta.get("val") if isinstance(source, fx.Node) else None
        if not isinstance(fake, torch.Tensor) or fake.ndim != 3:
            return rule(t, node, a)
        value = rule(t, node, {name: _widened(name, each) for name, each in a.items()})
        if isinstance(value, Many):
            return Many(tuple(_narrowed(each) if each is not None else None for each in value.values))
        return _narrowed(value) if isinstance(value, Ref) else value

    return wrapped


def _widened(name: str, value: Any) -> Any:
    """A sequence's number, for rows and columns."""
    if name not in _OF_ONE_ROW or value is None or isinstance(value, str):
        return value
    numbers = [value] if isinstance(value, int | float) else list(value)
    return [_OF_ONE_ROW[name], *numbers] if numbers else numbers


def _narrowed(ref: Ref) -> Ref:
    """A map of one row as a sequence."""
    return Ref(ref.tensor, (*ref.shape[:2], ref.shape[3])) if len(ref.shape) == 4 else ref


def _bias(t: Translator, argument: object) -> AnyArray | None:
    bias = t.const(argument)
    return None if bias is None else weights(bias)


def _constant_or_none(t: Translator, argument: object) -> bool:
    return argument is None or t.const(argument) is not None


def _conv_padding(padding: Any, kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int, int, int]:
    if padding == "valid":
        return (0, 0, 0, 0)
    if padding == "same":  # torch puts the odd zero at the end
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
    rows, columns = pair(padding)
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
    """A linear layer over a flattened map is a conv whose kernel covers the map; one over channels, a conv of 1×1."""
    last = t.last(source)
    if last is not None and weight is not None and _constant_or_none(t, bias):
        return t.pointwise_linear(layer_name(node), last, weights(weight), _bias(t, bias))
    ref = t.ref(source)
    if ref is None or weight is None or not _constant_or_none(t, bias):
        return None
    read = t.tensors[ref.tensor]
    features = read.channels * read.height * read.width
    if ref.shape[-1] != features or math.prod(ref.shape[:-1]) != t.batch or weight.shape[1] != features:
        return None
    return t.linear(layer_name(node), ref.tensor, weights(weight), _bias(t, bias), shape_of(node))


def takes(t: Translator, reader: fx.Node, fill: float) -> bool:
    """Whether a conv can pad by itself what has been padded with ``fill``: with zeros."""
    name = getattr(getattr(reader.target, "_schema", None), "name", "")
    if name not in ("aten::conv1d", "aten::conv2d", "aten::convolution") or fill or bind(reader).get("transposed"):
        return False
    return isinstance(reader.args[1], fx.Node) and t.const(reader.args[1]) is not None
