"""Cuts: the tensors at which work may go from one rank to another.

all         every tensor
shrinking   only those smaller than the outputs of all layers before (the input does not count, and the first layer's output
            is none): a network's slices, as terminal-edge offloading cuts it. VGG-16's end in pool1 … pool5, fc6, fc8
"""

from __future__ import annotations

from typing import Literal, get_args

from fogconv.ir.graph import LayerGraph

Cuts = Literal["all", "shrinking"]
CUTS: tuple[str, ...] = get_args(Cuts)


def shrinking(graph: LayerGraph) -> tuple[int, ...]:
    """The tensors that are smaller than every earlier layer's output, in the graph's order, the output among them where it
    is."""
    found: list[int] = []
    least: int | None = None
    for layer in graph.layers:
        for tensor in layer.writes:
            elements = graph.tensors[tensor].elements
            if least is not None and elements < least:
                found.append(tensor)
            least = elements if least is None else min(least, elements)
    return tuple(found)


def slices(graph: LayerGraph) -> tuple[tuple[int, ...], ...]:
    """The layers of each slice; all but the last end in a tensor at which the graph may be cut."""
    ends = set(shrinking(graph)) - set(graph.results)
    found: list[tuple[int, ...]] = []
    slice_: list[int] = []
    for index, layer in enumerate(graph.layers):
        slice_.append(index)
        if ends & set(layer.writes):
            found.append(tuple(slice_))
            slice_ = []
    return (*found, tuple(slice_)) if slice_ else tuple(found)


def not_cut(graph: LayerGraph) -> frozenset[int]:
    """The tensors that stay on the rank that computes them where only shrinking ones may be sent."""
    return frozenset(range(len(graph.tensors))) - set(graph.given) - set(shrinking(graph))
