"""Nesting: a concatenation that begins with all of an earlier one reads that one instead of its parts.

DenseNet concatenates all features so far before every layer. Written as cat(cat(cat(a, b), c), d), what
a rank has fetched of the shorter list counts for the longer one, and the planner has two tensors to think of, not twenty.
"""

from __future__ import annotations

from dataclasses import replace

from fogconv.layers import Concat, Layer, LayerGraph


def nest_concats(graph: LayerGraph) -> LayerGraph:
    """The same graph with such sources replaced; a graph without them is returned as it is."""
    earlier: dict[tuple[int, ...], int] = {}
    layers: list[Layer] = []
    for layer in graph.layers:
        if isinstance(layer, Concat):
            length = max((n for n in range(2, len(layer.sources)) if layer.sources[:n] in earlier), default=0)
            earlier.setdefault(layer.sources, layer.target)
            if length:
                layer = replace(layer, sources=(earlier[layer.sources[:length]], *layer.sources[length:]))
        layers.append(layer)
    return graph if tuple(layers) == graph.layers else replace(graph, layers=tuple(layers))
