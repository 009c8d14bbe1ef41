"""Plain form: a graph whose convs have no residual, and no activation but bounds, so that each layer has a form on bytes.

What a conv does beside that becomes a layer of its own: the sum with its residual, an activation such as SiLU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fogconv.frontend.quantized.absorb import activation_layer, as_table, is_bounds, pruned
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Add, Conv, Layer, Tensor


def plain_form(graph: LayerGraph) -> LayerGraph:
    """The same graph, computed the same."""
    tensors, layers = list(graph.tensors), list[Layer]()
    for layer in graph.layers:
        layers.extend(_apart(layer, tensors) if isinstance(layer, Conv) else (as_table(layer) or layer,))
    return pruned(replace(graph, tensors=tuple(tensors), layers=tuple(layers)))


def _apart(conv: Conv, tensors: list[Tensor]) -> Iterator[Layer]:
    bounded = is_bounds(conv.activation)
    if conv.residual is None and bounded:
        yield conv
        return
    target = _new(conv.target, f"{conv.name}.conv", tensors)
    yield replace(conv, name=f"{conv.name}.conv", target=target, residual=None, activation=None)
    if conv.residual is not None:
        made = conv.target if bounded else _new(conv.target, f"{conv.name}.sum", tensors)
        name = conv.name if bounded else f"{conv.name}.sum"
        yield Add(name, (target, conv.residual), made, conv.activation if bounded else None)
        target = made
    if not bounded and conv.activation is not None:
        yield activation_layer(conv.name, conv.activation, target, conv.target)


def _new(like: int, name: str, tensors: list[Tensor]) -> int:
    tensors.append(replace(tensors[like], name=name))
    return len(tensors) - 1
