"""Groups: several ranks that have a stage together compute each map once, and give a stream more frames where memory is
short."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogconv.hardware.topology import Topology
from fogconv.ir.geometry import Region
from fogconv.ir.graph import LayerGraph
from fogconv.ir.memory.footprint import PROCESS_BYTES
from fogconv.planning.memory import excess, needed_bytes
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.planning.streams import lane
from fogconv.planning.streams.group import group_work, ways
from fogconv.planning.streams.partition import Loads
from tests.chains import chain
from tests.planning.streams.test_lanes import FAST, assert_computes
from tests.seeded_models import graph as net

GRAPH = chain(16, 64, 64, 64, 256, 256, 256, size=64)


def short(share: float, graph: LayerGraph = GRAPH) -> Topology:
    """Ranks with a share of what the whole network takes."""
    alone = needed_bytes(graph, plan(graph, FAST, PlanOptions("local")), FAST)[0]
    devices = tuple(replace(device, memory_bytes=PROCESS_BYTES + int(share * alone)) for device in FAST.devices)
    return replace(FAST, devices=devices)


@given(st.integers(1, 40), st.integers(1, 40), st.lists(st.floats(0.1, 10.0), min_size=1, max_size=4), st.integers(0, 3))
def test_every_row_is_computed_once(height: int, width: int, rates: list[float], first: int) -> None:
    whole, group = Region.whole(3, height, width), tuple(range(first, first + len(rates)))
    works = group_work(whole, group, rates)
    rows = [row for work in works for row in range(work.output.rows.start, work.output.rows.stop)]
    assert sorted(rows) == list(range(height))
    assert {work.rank for work in works} <= set(group)
    assert all(work.output.columns == whole.columns and work.output.channels == whole.channels for work in works)


@pytest.mark.parametrize("together", [1, 2, 3])
def test_a_frame_passes_every_rank_and_at_most_the_master_twice(together: int) -> None:
    for passed in ways((0, 1, 2, 3), together):
        ranks = [rank for group in passed for rank in group]
        assert [rank for rank in ranks if rank] == [1, 2, 3] and ranks.count(0) <= 2
        assert max(map(len, passed)) == together
    assert ways((2,), 1) == [[(2,)]]


def test_a_group_is_done_sooner_and_pays_for_what_neighbours_exchange() -> None:
    loads = Loads(GRAPH, FAST, "fp32")
    alone, together = (loads.working_s(group, 0, loads.layers) for group in ((1,), (1, 2)))
    assert alone / 2 < together < alone
    far = Loads(GRAPH, Topology.uniform(4, 2e9, 1e9, 1e-4, copy_s_per_byte=1e-6, step_s=1e-5), "fp32")
    assert far.working_s((1, 2), 0, loads.layers) > together


def test_where_memory_is_short_a_group_gives_more_frames_and_computes_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    topology = short(0.95)
    found = plan(GRAPH, topology, PlanOptions("pipeline"))
    assert any(placement.mode == "rows" and len(placement.work) > 1 for placement in found.placements)
    assert not excess(GRAPH, found, topology)
    rng = np.random.default_rng(1)
    weights = {key: rng.standard_normal(each.shape) / 48 for key, each in GRAPH.weights.items()}
    assert_computes(replace(GRAPH, weights=weights), found)
    monkeypatch.setattr(lane, "MOST_TOGETHER", 1)
    single = plan(GRAPH, topology, PlanOptions("pipeline"))
    assert all(len(placement.work) <= 1 for placement in single.placements)
    assert found.frames_per_s is not None and single.frames_per_s is not None
    assert found.frames_per_s > 1.1 * single.frames_per_s


def test_more_memory_gives_hardly_fewer_frames() -> None:
    """The first stages that fit are not the best ones. (Where memory is no matter, groups are not tried: a few percent.)"""
    graph = net("resnet18", 64)
    rates = [plan(graph, short(share, graph), PlanOptions("pipeline")).frames_per_s or 0.0 for share in (0.5, 0.6, 0.8)]
    assert all(more >= 0.9 * less for less, more in pairwise(rates)), rates
