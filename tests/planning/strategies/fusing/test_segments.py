"""Within a segment a rank computes all that it reads there; a segment is never so long that it needs others' neighbours."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.hardware.topology import Topology
from fogconv.ir.geometry import ConvSpec, Span
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Concat, Conv, Host, Layer, Tensor
from fogconv.ir.plan import Placement, Plan
from fogconv.ir.shard import split
from fogconv.ir.steps import Recv
from fogconv.lowering.lower import outline
from fogconv.planning.cost import Prices
from fogconv.planning.layout_table import LayoutBook
from fogconv.planning.strategies.fusing.segments import fused_rows
from fogconv.planning.strategies.options import Options
from tests.chains import chain
from tests.random_graphs import graphs


def dense(count: int, size: int) -> LayerGraph:
    """Like a dense block: each layer reads all that was made before, by a 1×1 and a 3×3, and adds its channels."""
    tensors, layers = [Tensor("input", 1, 16, size, size)], list[Layer]()
    last = 0

    def conv(source: int, filters: int, kernel: int) -> int:
        spec = ConvSpec(tensors[source].channels, filters, size, size, (kernel, kernel), padding=(kernel // 2,) * 4)
        name = f"conv{len(layers)}"
        layers.append(Conv(name, source, len(tensors), spec, name, None, "relu"))
        tensors.append(Tensor(name, 1, filters, size, size))
        return len(tensors) - 1

    features = [0]
    for _ in range(count):
        features.append(conv(conv(last, 32, 1), 16, 3))
        last = len(tensors)
        layers.append(Concat(f"cat{last}", tuple(features), last))
        tensors.append(Tensor(f"cat{last}", 1, 16 * len(features), size, size))
    weights = {each.weight: np.zeros(each.spec.weight_shape, np.float32) for each in layers if isinstance(each, Conv)}
    return LayerGraph.single("dense", tuple(tensors), tuple(layers), 0, last, tensors[last].shape, weights)


def fused(graph: LayerGraph, ranks: int, stages: int) -> Plan:
    prices = Prices(Topology.uniform(ranks, 1e9, 1e8))
    options = Options(graph, prices, LayoutBook(prices), "rows", fused=stages)
    placements = [
        Placement("relabel", ())
        if layer.relabels
        else next(Placement(o.mode, o.work, o.target) for o in options.of(layer) if o.mode == "rows")
        for layer in graph.layers
    ]
    return Plan(graph.name, ranks, "rows", tuple(placements))


def received(plan: Plan, graph: LayerGraph, rank: int) -> int:
    return sum(isinstance(step, Recv) for step in outline(graph, plan)[rank].steps)


def test_three_layers_of_a_dense_block_take_the_messages_of_one() -> None:
    """One from each neighbour for each segment: what is read of earlier layers comes with the first one's rows."""
    graph = dense(9, 60)
    assert received(fused(graph, 3, 1), graph, 1) == 1 + 9 * 2
    assert received(fused(graph, 3, 3), graph, 1) == 1 + 3 * 2


def test_a_segment_ends_where_it_would_need_rows_from_beyond_the_neighbours() -> None:
    graph = dense(6, 8)
    assert received(fused(graph, 4, 6), graph, 0) == received(fused(graph, 4, 2), graph, 0)


@given(graphs(), st.integers(1, 4), st.integers(1, 4))
@settings(deadline=None)
def test_every_rank_has_its_own_rows_at_least(graph: LayerGraph, ranks: int, stages: int) -> None:
    def cuts(height: int) -> tuple[Span, ...]:
        return split(height, [1.0] * ranks)

    found = fused_rows(graph, cuts, stages)
    for layer in graph.layers:
        if isinstance(layer, Host) or layer.relabels:
            continue
        height = graph.tensors[layer.target].height
        for own, rows in zip(cuts(height), found[layer.name], strict=True):
            assert (own & rows) == own
            assert (rows & Span(0, height)) == rows
            assert bool(own) == bool(rows)


def test_rows_grow_towards_the_start_of_a_segment() -> None:
    found = fused_rows(chain(8, 8, 8, 8, size=30), lambda height: split(height, [1.0] * 3), 3)
    assert [found[f"conv{number}"][1] for number in range(3)] == [Span(8, 22), Span(9, 21), Span(10, 20)]
