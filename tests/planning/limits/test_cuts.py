"""Slices: VGG-16's are the published seven, and offloaded work changes ranks only between them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from fogconv.errors import InputError
from fogconv.frontend.zoo_graphs import graph as zoo_graph
from fogconv.hardware.topology import Topology
from fogconv.ir.layers import Pool
from fogconv.planning.limits.cuts import shrinking, slices
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan


def test_vgg16_has_seven_slices_that_end_in_the_pools_fc6_and_fc8() -> None:
    graph = zoo_graph("vgg16")
    ends = [graph.layers[each[-1]] for each in slices(graph)]
    assert len(ends) == 7
    assert all(isinstance(layer, Pool) for layer in ends[:5])
    assert [layer.name for layer in ends[5:]] == ["classifier.0", "classifier.6"]
    kilobytes = [round(4 * graph.tensors[layer.writes[0]].elements / 1000) for layer in ends]
    assert kilobytes == [3211, 1606, 803, 401, 100, 16, 4]


@pytest.mark.parametrize("name", ["vgg16", "alexnet", "resnet18", "inception_v3"])
def test_slices_are_the_layers_in_order_and_shrink(name: str) -> None:
    graph = zoo_graph(name)
    found = slices(graph)
    assert [index for each in found for index in each] == list(range(len(graph.layers)))
    sizes = [graph.tensors[tensor].elements for tensor in shrinking(graph)]
    assert all(a > b for a, b in pairwise(sizes))


@pytest.mark.parametrize("name", ["vgg16", "resnet18"])
def test_with_shrinking_cuts_ranks_change_between_slices_only(name: str) -> None:
    graph = zoo_graph(name)
    cluster = Topology.uniform(3, 1e9, 1e6)
    for rank in cluster.workers:
        cluster = cluster.replace_device(rank, cluster.devices[rank].scaled(10.0 * rank))
    found = plan(graph, cluster, PlanOptions("offload", cuts="shrinking"))
    assert len(found.active_ranks) > 1
    for each in slices(graph):
        assert len({work.rank for index in each for work in found.placements[index].work}) == 1
    free = plan(graph, cluster, PlanOptions("offload"))
    assert free.predicted_s is not None and found.predicted_s is not None
    assert free.predicted_s <= found.predicted_s * 1.0001


def test_cuts_are_for_offload() -> None:
    with pytest.raises(InputError, match="--scheme offload"):
        PlanOptions("rows", cuts="shrinking")
    with pytest.raises(InputError, match="all, shrinking"):
        PlanOptions("offload", cuts="growing")
