"""Nesting concatenations changes what they read, not what they are."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings

from fogconv.frontend.fusion import nest_concats
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Concat, Tensor
from tests.graph_reference import run_outputs
from tests.random_graphs import graphs, numbers_for


def concats(*sources: tuple[int, ...]) -> LayerGraph:
    tensors = [Tensor(f"t{i}", 1, 4, 2, 2) for i in range(4)]
    layers = []
    for parts in sources:
        layers.append(Concat(f"cat{len(tensors)}", parts, len(tensors)))
        tensors.append(Tensor(f"t{len(tensors)}", 1, sum(tensors[i].channels for i in parts), 2, 2))
    return LayerGraph.single("cats", tuple(tensors), tuple(layers), 0, len(tensors) - 1, (), {})


def test_a_growing_list_reads_the_list_before() -> None:
    nested = nest_concats(concats((0, 1), (0, 1, 2), (0, 1, 2, 3)))
    assert [layer.sources for layer in nested.layers if isinstance(layer, Concat)] == [(0, 1), (4, 2), (5, 3)]


def test_lists_that_share_no_beginning_stay() -> None:
    graph = concats((0, 1), (1, 0, 2), (0, 2))
    assert nest_concats(graph) is graph


@given(graphs())
@settings(deadline=None, max_examples=30)
def test_the_nested_graph_computes_the_same(graph: LayerGraph) -> None:
    inputs = numbers_for(graph, 0)
    found, wanted = run_outputs(nest_concats(graph), inputs), run_outputs(graph, inputs)
    assert all(np.array_equal(*pair) for pair in zip(found, wanted, strict=True))
