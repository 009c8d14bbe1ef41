"""A grid's parts cover the output once, and few ranks share a layer's weights only where the scheme may spare them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogconv.hardware.topology import Topology
from fogconv.ir.geometry import subtract
from fogconv.planning.strategies.dealing.grid import GRID, groupings, row_spans
from fogconv.planning.strategies.dealing.sharers import least_sharers
from fogconv.planning.strategies.shares import Shares
from tests.chains import chain


def shares(graph: object, rates: list[float]) -> Shares:
    topology = Topology.uniform(len(rates), 1e9, 1e8)
    for rank, rate in enumerate(rates):
        topology = topology.replace_device(rank, topology.devices[rank].scaled(rate))
    sharers = least_sharers(graph, len(rates))  # type: ignore[arg-type]
    return Shares(graph, topology, None, sharers=sharers, drifting=False, offloading=False)  # type: ignore[arg-type]


@given(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=3, max_size=8), st.integers(1, 70), st.integers(2, 60))
def test_the_parts_cover_the_output_once(rates: list[float], channels: int, size: int) -> None:
    graph = chain(8, channels, 512, 512, size=size)
    for way in GRID.ways(graph.layers[0], shares(graph, rates)):
        whole = graph.tensors[1].region
        parts = [work.output for work in way.work]
        assert sum(part.elements for part in parts) == whole.elements
        assert not subtract(whole, parts)
        assert len({work.rank for work in way.work}) == len(way.work)


@pytest.mark.parametrize(
    ("ranks", "sizes"), [(3, [(1, 2)]), (5, [(2, 3), (1, 2, 2), (1, 1, 1, 2)]), (4, [(2, 2), (1, 1, 2)]), (2, [])]
)
def test_groups_are_of_nearly_the_same_size(ranks: int, sizes: list[tuple[int, ...]]) -> None:
    found = list(groupings(range(ranks)))
    assert [tuple(map(len, groups)) for groups in found] == sizes
    assert all([rank for group in groups for rank in group] == list(range(ranks)) for groups in found)


def test_cuts_stay_cuts_when_a_map_is_halved() -> None:
    cuts = [list(row_spans(height, [2.0, 3.0]))[-1][0].stop for height in (224, 112, 56, 28, 14, 7)]
    assert cuts == [96, 48, 24, 12, 6, 3]


def test_a_layer_that_weighs_is_shared_by_more() -> None:
    """There are fewer grids for it: small groups would leave more of its weights on each rank."""
    graph = chain(64, 64, 512, 512, 512, 512)
    ours = shares(graph, [1.0] * 5)
    ways = [len(list(GRID.ways(layer, ours))) for layer in graph.layers]
    assert ways[0] > ways[-1]
