"""Cells cover every map once, by the ranks' shares; what is fused needs no exchange."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.errors import GeometryError
from fogconv.hardware.topology import Topology
from fogconv.ir.geometry import subtract
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Host
from fogconv.ir.shard import Work
from fogconv.planning.limits.tiling import Tiling
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.planning.strategies.cells import Cells
from tests.chains import chain
from tests.random_graphs import graphs

weights = st.dictionaries(st.integers(0, 6), st.sampled_from([0.5, 1.0, 1.0, 3.7]), min_size=1)
tilings = st.builds(Tiling, st.integers(1, 4), st.integers(1, 4))


@given(graphs(), weights, tilings, st.booleans())
@settings(deadline=None, max_examples=60)
def test_cells_cover_every_map_once(graph: LayerGraph, shares: dict[int, float], tiling: Tiling, aligned: bool) -> None:
    cells = Cells(graph, shares)
    for tensor, each in enumerate(graph.tensors):
        parts = cells.of(tiling, tensor, aligned)
        assert sum(region.elements for region in parts.values()) == each.region.elements
        assert not subtract(each.region, parts.values())
        assert parts.keys() <= shares.keys()


@given(graphs(), weights, tilings, st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_a_fused_layer_finds_all_that_it_reads_with_its_own_rank(
    graph: LayerGraph, shares: dict[int, float], tiling: Tiling, layers: int
) -> None:
    cells = Cells(graph, shares)
    for layer in graph.layers:
        if isinstance(layer, Host) or graph.tensors[layer.target].shape[2:] == (1, 1):
            continue
        for rank, region in cells.fused(tiling, layer.target, layers - layer.reaches, False).items():
            for tensor, box in _needs(graph, layer, Work(rank, region)):
                held = cells.fused(tiling, tensor, layers, False).get(rank)
                # A map of one row or column, whose value counts everywhere, has no part on most ranks.
                if held is not None:
                    assert box.rows in held.rows and box.columns in held.columns


def _needs(graph: LayerGraph, layer: object, work: Work) -> tuple[tuple[int, object], ...]:
    try:
        return layer.needs(graph.tensors, work)  # type: ignore[attr-defined, no-any-return]
    except GeometryError:  # it reads only padding
        return ()


def test_tiles_are_as_large_as_their_ranks_are_fast() -> None:
    parts = Cells(chain(3, 16, size=48), {0: 1.0, 1: 3.0, 2: 2.0, 3: 2.0}).of(Tiling(2, 2), 1, False)
    assert {rank: (len(part.rows), len(part.columns)) for rank, part in parts.items()} == {
        0: (24, 12),
        1: (24, 36),
        2: (24, 24),
        3: (24, 24),
    }
    parts = Cells(chain(3, 16, size=48), dict.fromkeys(range(5), 1.0)).of(Tiling(2, 3), 1, False)
    assert [part.elements for part in parts.values()] == pytest.approx([16 * 48 * 48 / 5] * 5, rel=0.05)


def test_dear_messages_fuse_layers_and_cheap_ones_do_not() -> None:
    graph = chain(64, 64, 64, 64, size=64)

    def repeated(message_s: float) -> int:
        """Pixels that are computed again, by another rank."""
        topology = Topology.uniform(4, 2e10, 1e9, 1e-6, copy_s_per_byte=1e-11, step_s=1e-8)
        for rank in topology.ranks:
            topology = topology.replace_device(rank, replace(topology.devices[rank], message_s=message_s))
        found = plan(graph, topology, PlanOptions("tiles", tiles="2x2"))
        return sum(work.output.elements // 64 for p in found.placements for work in p.work) - 3 * 64 * 64

    assert repeated(0.0) == 0
    assert repeated(1e-3) > 0
