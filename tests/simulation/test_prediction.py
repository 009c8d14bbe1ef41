"""One cost model: planner, calculator and simulator have the same figure for the same work."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fogconv.hardware.presets import preset
from fogconv.hardware.topology import Topology
from fogconv.ir.layout import MASTER
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.planning.schemes import ONE_FRAME, Scheme
from fogconv.planning.star import whole_inference
from fogconv.simulation.layer_times import layer_times
from fogconv.simulation.prediction import predicted
from fogconv.simulation.simulator import simulate
from fogconv.speedup.conv_tables import NamedConv, layer_network
from tests import seeded_models as models

NETS = {"vgg16": 96, "resnet50": 64, "inception_v3": 96, "mobilenet_v2": 96}
CLOSE = 0.03


def uniform(mbit: float, *speeds: float) -> Topology:
    found = Topology.uniform(5, 2e10, mbit * 1e6 / 8, 2e-4, copy_s_per_byte=4e-10, step_s=2e-5)
    busy = replace(found, devices=tuple(replace(device, message_s=5e-5) for device in found.devices))
    for rank, speed in enumerate(speeds):
        busy = busy.replace_device(rank, busy.devices[rank].scaled(speed))
    return busy


CLUSTERS = {
    "pi4": preset("pi4").topology(4),
    "pi5": preset("pi5").topology(2),
    "1 Gbit": uniform(1000),
    "100 Mbit": uniform(100),
    "50 Mbit": uniform(50),
    "uneven": uniform(400, 1, 0.5, 1, 2, 1),
}


WHERE = [(net, cluster) for i, net in enumerate(NETS) for j, cluster in enumerate(CLUSTERS) if (i + j) % 2 == 0]
"""Every net on half of the clusters; the others, in `make test-full`."""


@pytest.mark.parametrize(
    ("net", "cluster"),
    [
        pytest.param(net, cluster, marks=() if (net, cluster) in WHERE else pytest.mark.full)
        for net in NETS
        for cluster in CLUSTERS
    ],
)
def test_planner_calculator_and_simulator_agree(net: str, cluster: str) -> None:
    graph, topology = models.graph(net, NETS[net]), CLUSTERS[cluster]
    for options in (*(PlanOptions(scheme) for scheme in ONE_FRAME), PlanOptions(Scheme.STAR, threshold=0.0)):
        found = plan(graph, topology, options)
        programs = lower(graph, found).programs
        timeline = simulate(programs, topology)
        simulated_s = timeline.latencies_s[0]
        assert found.predicted_s == pytest.approx(simulated_s, rel=CLOSE), options.scheme
        by_layer = sum(terms["total_s"] for terms in layer_times(found, programs, timeline.times[0]))
        rows = sum(placement.predicted.get("total_s", 0.0) for placement in found.placements)
        assert rows == pytest.approx(by_layer, rel=CLOSE)
        assert rows + found.ends_s == pytest.approx(simulated_s, rel=CLOSE)
        if options.scheme == Scheme.STAR:
            whole = whole_inference(graph, topology, options)
            assert whole.chosen_s == pytest.approx(simulated_s, rel=CLOSE)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_single_layer_is_a_net_of_one(cluster: str) -> None:
    conv = models.graph("vgg16", 96).convs[5]
    graph = layer_network(NamedConv(conv.name, conv.spec))
    whole = whole_inference(graph, CLUSTERS[cluster], PlanOptions(Scheme.STAR))
    assert min(whole.home_s, whole.all_s) * (1 - CLOSE) <= whole.chosen_s <= max(whole.home_s, whole.all_s) * (1 + CLOSE)


def test_a_prediction_is_never_less_than_the_slowest_ranks_work_and_the_busiest_card() -> None:
    graph, topology = models.graph("resnet50", 64), CLUSTERS["100 Mbit"]
    for scheme in ONE_FRAME:
        found = plan(graph, topology, PlanOptions(scheme))
        timeline = simulate(lower(graph, found).programs, topology)
        card_s = max(max(card) for card in timeline.card_bytes) * 8 / 100e6
        assert found.predicted_s is not None
        assert found.predicted_s >= max(card_s, *timeline.busy_s) * 0.999


def test_a_plan_is_priced_for_the_cluster_at_hand() -> None:
    graph = models.graph("resnet50", 64)
    found = plan(graph, CLUSTERS["1 Gbit"], PlanOptions(Scheme.ROWS))
    slow = predicted(graph, found, CLUSTERS["50 Mbit"])
    assert slow.predicted_s is not None and found.predicted_s is not None
    assert slow.predicted_s > 2 * found.predicted_s
    assert [placement.work for placement in slow.placements] == [placement.work for placement in found.placements]


def test_what_a_layer_takes_is_split_into_what_comes_before_and_after_its_work() -> None:
    graph = models.graph("vgg16", 96)
    found = plan(graph, uniform(20_000), PlanOptions(Scheme.DEPTH))
    summed = [each.predicted for each in found.placements if each.mode == "input"]
    assert summed and all(terms["rx_s"] > 0 for terms in summed)
    for placement in found.placements:
        terms = placement.predicted
        if placement.work:
            assert terms["tx_s"] + terms["edge_s"] + terms["rx_s"] == pytest.approx(terms["total_s"], abs=1e-9)
        if {work.rank for work in placement.work} == {MASTER} and placement.mode == "local":
            assert terms["rx_s"] == 0.0
