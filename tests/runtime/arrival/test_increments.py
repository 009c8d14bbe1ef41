"""Increments: what is sent first gains most per byte; every plan is faster than the one before; the last one is the best."""

from __future__ import annotations

import pytest

from fogconv.errors import InputError
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Conv
from fogconv.ir.layout import MASTER
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.runtime.arrival.increments import Increment, away, increments
from fogconv.runtime.run_options import RunOptions
from tests import seeded_models as models
from tests.chains import chain

OFFLOAD = PlanOptions("offload")


def slow_master(bandwidth_bytes_per_s: float, workers: int = 1) -> Topology:
    topology = Topology.uniform(1 + workers, 2e9, bandwidth_bytes_per_s, 1e-3)
    for rank in topology.workers:
        topology = topology.replace_device(rank, topology.devices[rank].scaled(10.0 * rank))
    return topology


def weights(graph: LayerGraph, increment: Increment) -> int:
    convs = (graph.layers[number] for number in increment.layers)
    return sum(layer.spec.weight_elements for layer in convs if isinstance(layer, Conv))


@pytest.mark.parametrize("net", ["alexnet", "squeezenet1_1", "resnet18"])
@pytest.mark.parametrize("workers", [1, 2])
def test_each_increment_gains_less_per_weight_than_the_one_before(net: str, workers: int) -> None:
    graph, topology = models.graph(net, 224 if net == "alexnet" else 64), slow_master(20e6, workers)
    found = list(increments(graph, topology, OFFLOAD))
    seconds = [each.plan.predicted_s or 0.0 for each in found]
    assert len(found) > 2
    assert found[0].plan.active_ranks == {MASTER} and not found[0].layers
    assert seconds == sorted(seconds, reverse=True)
    gains = [
        (before - after) / weights(graph, each)
        for before, after, each in zip(seconds, seconds[1:], found[1:], strict=False)
        if weights(graph, each)
    ]
    assert gains == sorted(gains, reverse=True)
    best = plan(graph, topology, OFFLOAD)
    assert seconds[-1] <= (best.predicted_s or 0.0) * 1.0001


def test_no_layer_needs_weights_that_were_not_sent_yet() -> None:
    graph = models.graph("resnet18", 64)
    landed: frozenset[int] = frozenset()
    for each in increments(graph, slow_master(20e6), OFFLOAD):
        assert not each.layers & landed
        landed |= each.layers
        assert away(graph, each.plan) <= landed


def test_where_nothing_gains_nothing_is_sent() -> None:
    [alone] = increments(chain(16, 16, 16), Topology.uniform(2, 1e9, 1e4), OFFLOAD)
    assert alone.plan.active_ranks == {MASTER}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (PlanOptions("rows"), "--scheme offload"),
        (PlanOptions("offload", objective="energy"), "the fastest plan"),
        (PlanOptions("offload", allow_swap=True), "the fastest plan"),
    ],
)
def test_what_can_not_begin_early_is_refused(options: PlanOptions, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        next(increments(chain(16, 16), slow_master(1e9), options))
    with pytest.raises(InputError, match="--rehearse"):
        RunOptions(early=True, rehearse=True)
