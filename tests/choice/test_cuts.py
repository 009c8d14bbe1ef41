"""Cuts: what a place to cut takes is what its plan takes, and the best is starred."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fogconv.choice.cuts import at_bandwidth, curve, cuts
from fogconv.errors import InputError
from fogconv.frontend.zoo_graphs import graph as zoo_graph
from fogconv.hardware.presets import preset
from fogconv.hardware.topology import Topology
from fogconv.ir.steps import Pixels
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from tests.chains import chain

BYTES = Pixels((0.0,) * 3, (1.0,) * 3)
"""As cuts take a picture to be sent."""


def cluster(faster: float = 10.0) -> Topology:
    found = preset("pi4").topology(1)
    return found.replace_device(1, found.devices[1].scaled(faster))


def test_vgg16_has_a_cut_before_each_of_its_slices_and_one_behind_the_last() -> None:
    found = cuts(zoo_graph("vgg16"), cluster(), "shrinking")
    assert [cut.after for cut in found] == [
        "", "features.4", "features.9", "features.16", "features.23", "features.30", "classifier.0", "classifier.6",
    ]  # fmt: skip
    assert [round(cut.sent_bytes / 1000) for cut in found] == [151, 3211, 1606, 803, 401, 100, 16, 0]


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "inception_v3"])
def test_of_all_cuts_the_best_is_no_better_than_the_planner_s_path(name: str) -> None:
    graph = zoo_graph(name)
    for bytes_per_s in (1e8, 1e6, 1e4):
        topology = at_bandwidth(cluster(), bytes_per_s)
        places = cuts(graph, topology)
        found = curve(graph, topology, places, bytes_per_s)
        assert found.fastest is not None and found.frugalest is not None
        fastest, frugalest = found.seconds[found.fastest], found.joules[found.frugalest]
        path = plan(graph, topology, PlanOptions("offload", pixels=BYTES))
        least = plan(graph, topology, PlanOptions("offload", objective="energy", pixels=BYTES))
        assert path.predicted_s is not None and least.predicted_j is not None
        # The planner may return to the master, too; its sums leave out what overlaps.
        assert fastest is not None and path.predicted_s <= fastest * 1.001
        assert frugalest is not None and least.predicted_j <= frugalest * 1.001


def test_far_away_everything_stays_at_home_and_near_it_goes() -> None:
    graph = chain(64, 64, 64, 64, size=56)
    topology = cluster()
    places = cuts(graph, topology)
    assert curve(graph, topology, places, 1e10).fastest == 0
    assert curve(graph, topology, places, 1e3).fastest == len(places) - 1


def test_a_cut_without_the_memory_for_it_is_left_out() -> None:
    graph = zoo_graph("vgg16")
    small = cluster().replace_device(0, replace(cluster().devices[0], memory_bytes=400_000_000))
    places = cuts(graph, small, "shrinking")
    fits = [cut.fits for cut in places]
    assert fits[0] and not fits[-1] and fits == sorted(fits, reverse=True), "more layers at home need more there"
    assert curve(graph, small, places, 1e6).seconds[-1] is None
    swapped = cuts(graph, small, "shrinking", allow_swap=True)
    assert sum(cut.fits for cut in swapped) > sum(fits) and swapped[-1].plan.swaps


def test_the_same_port_takes_longer_and_more_over_a_slower_link() -> None:
    topology = cluster()
    slow = at_bandwidth(topology, topology.link(0, 1).bandwidth_bytes_per_s / 10)
    assert slow.link(0, 1).joules_per_byte == pytest.approx(10 * topology.link(0, 1).joules_per_byte)


def test_a_graph_of_one_layer_has_no_place_to_cut() -> None:
    with pytest.raises(InputError, match="chain has one layer"):
        cuts(chain(16, 16), cluster())
