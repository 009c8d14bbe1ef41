"""What each rank does, counted from its program."""

from __future__ import annotations

import pytest

from fogconv.analysis.outlook import outlook
from fogconv.analysis.workload import rank_works, workload
from fogconv.hardware.topology import Topology
from fogconv.ir.layers import Conv
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.simulation.simulator import simulate
from tests import seeded_models as models

GRAPH = models.graph("squeezenet1_1", 64)
MACS = sum(layer.spec.macs for layer in GRAPH.layers if isinstance(layer, Conv))


def test_the_master_alone_does_all_and_sends_nothing() -> None:
    topology = Topology.uniform(3, 1e9, 1e8)
    found = workload(lower(GRAPH, plan(GRAPH, topology, PlanOptions("local"))).programs)
    assert found.macs[0] == MACS and found.sent_bytes == 0
    assert found.shares == {0: 1.0, 1: 0.0, 2: 0.0}


def test_a_plan_over_rows_shares_all_of_the_work() -> None:
    topology = Topology.uniform(3, 1e9, 1e9)
    found = workload(lower(GRAPH, plan(GRAPH, topology, PlanOptions("rows"))).programs)
    assert sum(found.macs.values()) >= MACS and sum(found.shares.values()) == pytest.approx(1.0)
    assert all(share > 0.2 for share in found.shares.values()) and found.sent_bytes > 0


def test_slow_devices_gain_by_a_gigabit_and_fast_ones_do_not() -> None:
    slow, fast = (Topology.uniform(1, rate, 1e9).devices[0] for rate in (1e9, 1e13))
    found = outlook(GRAPH, slow, 4)
    assert found.ranks == 4 and found.alone_s > 1.5 * found.together_s > 0
    assert outlook(GRAPH, fast, 4).together_s == pytest.approx(outlook(GRAPH, fast, 4).alone_s, rel=0.05)


@pytest.mark.parametrize("parts", [2, 3])
def test_every_rank_says_what_it_did(parts: int) -> None:
    topology = Topology.uniform(3, 1e9, 1e8, 1e-4)
    programs = lower(GRAPH, plan(GRAPH, topology, PlanOptions("star", threshold=0.0, parts=parts))).programs
    timeline = simulate(programs, topology)
    found = rank_works(GRAPH, programs, timeline.times[0])
    assert [rank.rank for rank in found] == [0, 1, 2]
    assert sum(rank.share for rank in found) == pytest.approx(1.0)
    assert sum(rank.sent_bytes for rank in found) == pytest.approx(workload(programs).sent_bytes)
    working = [rank for rank in found if rank.convs]
    assert len(working) == parts, "no more ranks than parts"
    for rank in working[1:]:
        assert rank.computing_s > 0 and rank.waiting_s > 0
        assert rank.computing_s + rank.waiting_s <= timeline.latencies_s[0] * 1.001


def test_a_rank_that_reports_no_times_did_nothing() -> None:
    programs = lower(GRAPH, plan(GRAPH, Topology.uniform(2, 1e9, 1e8), PlanOptions("local"))).programs
    assert rank_works(GRAPH, programs, {})[1].computing_s == 0


def test_a_linear_layer_is_no_convolution() -> None:
    graph = models.graph("resnet18", 64)
    programs = lower(graph, plan(graph, Topology.uniform(2, 1e9, 1e8), PlanOptions("local"))).programs
    assert any(isinstance(layer, Conv) and layer.linear for layer in graph.layers)
    master, worker = rank_works(graph, programs, {})
    assert (master.convs, worker.convs) == (len(graph.convs), 0)
