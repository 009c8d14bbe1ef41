"""Plans for streams: every lane computes the network, no two share a worker, and the best division is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.errors import InputError, PlannerError
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Host
from fogconv.ir.memory.footprint import PROCESS_BYTES
from fogconv.ir.plan import Plan, load_plan, save_plan
from fogconv.lowering.lower import lower
from fogconv.planning.memory import needed_bytes
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.planning.schemes import STREAMS
from tests.chains import chain
from tests.graph_reference import run_outputs as graph_outputs
from tests.program_reference import run_outputs
from tests.random_graphs import graphs, numbers_for
from tests.seeded_models import graph as net

FAST = Topology.uniform(4, 2e9, 1e9, 1e-4, copy_s_per_byte=1e-9, step_s=1e-5)


def ranks_of(lane: Plan) -> set[int]:
    return {work.rank for placement in lane.placements for work in placement.work}


def assert_computes(graph: LayerGraph, lane: Plan) -> None:
    lowered = lower(graph, lane)
    inputs = numbers_for(graph, 0)
    found = run_outputs(lowered.programs, lowered.weights, inputs, host_of(graph))
    for port, one, wanted in zip(graph.outputs, found, graph_outputs(graph, inputs), strict=True):
        np.testing.assert_allclose(one.reshape(port.shape), wanted.reshape(port.shape), atol=1e-5)


def host_of(graph: LayerGraph) -> Callable[..., Sequence[Any]]:
    def call(index: int, values: dict[Any, Any], maps: Sequence[Any]) -> Sequence[Any]:
        layer = graph.layers[index]
        assert isinstance(layer, Host)
        return layer.call(values, *maps)

    return call


@settings(deadline=None, max_examples=15)
@given(graphs(), st.integers(1, 4), st.sampled_from([*STREAMS, "auto"]))
def test_every_lane_computes_the_network(graph: LayerGraph, ranks: int, scheme: str) -> None:
    options = PlanOptions(scheme, objective="throughput" if scheme == "auto" else None)
    found = plan(graph, FAST.subset(range(ranks)), options)
    for lane in found.lanes:
        assert lane.ranks == ranks and lane.in_flight >= 1
        assert_computes(graph, lane)


@pytest.mark.parametrize("scheme", STREAMS)
def test_lanes_share_no_worker(scheme: str) -> None:
    found = plan(chain(16, 64, 64, 64, 64), FAST, PlanOptions(scheme))
    assert all(not (ranks_of(one) & ranks_of(other) - {0}) for one, other in combinations(found.lanes, 2))
    assert set().union(*map(ranks_of, found.lanes)) == {0, 1, 2, 3}
    assert len(found.lanes) == (4 if scheme == "replicas" else 1)


def test_throughput_is_at_least_that_of_whole_frames_and_of_one_pipeline() -> None:
    for bandwidth in (1e6, 1e7, 1e9):
        for speeds in ((1, 1, 1, 1), (1, 4, 1, 2)):
            topology = Topology.uniform(4, 2e9, bandwidth, 1e-4, copy_s_per_byte=1e-9, step_s=1e-5)
            for rank, speed in enumerate(speeds):
                topology = topology.replace_device(rank, topology.devices[rank].scaled(speed))
            graph = net("squeezenet1_1", 64)
            best = plan(graph, topology, PlanOptions(objective="throughput")).frames_per_s
            rest = [plan(graph, topology, PlanOptions(scheme)).frames_per_s for scheme in STREAMS]
            assert best is not None and best >= max(each or 0.0 for each in rest) * (1 - 1e-9)


def test_equal_ranks_on_fast_links_take_whole_frames_and_all_of_them_count() -> None:
    graph = net("squeezenet1_1", 64)
    alone = plan(graph, FAST, PlanOptions("local")).predicted_s
    found = plan(graph, FAST, PlanOptions(objective="throughput"))
    assert alone is not None and found.frames_per_s is not None
    assert found.scheme == "replicas" and found.frames_per_s * alone == pytest.approx(4, rel=0.05)


def test_a_network_that_fits_into_no_rank_still_runs_as_a_stream() -> None:
    graph = chain(256, 256, 256, 256, 256, 256)
    rng = np.random.default_rng(1)
    graph = replace(graph, weights={key: rng.standard_normal(each.shape) / 48 for key, each in graph.weights.items()})
    alone = needed_bytes(graph, plan(graph, FAST, PlanOptions("local")), FAST)[0]
    limit = PROCESS_BYTES + alone * 3 // 4
    topology = replace(FAST, devices=tuple(replace(device, memory_bytes=limit) for device in FAST.devices))
    with pytest.raises(PlannerError, match=r"needs \d+ MB of weights and maps"):
        plan(graph, topology, PlanOptions("replicas"))
    for options in (PlanOptions("pipeline"), PlanOptions(objective="throughput")):
        found = plan(graph, topology, options)
        assert max(needed_bytes(graph, found, topology)) <= alone * 3 // 4
        assert len(found.active_ranks) > 1 and found.in_flight > 1
        assert_computes(graph, found)


def test_a_plan_of_a_stream_survives_its_file_and_a_cluster_with_more_ranks(tmp_path: object) -> None:
    found = plan(chain(64, 64, 64), FAST, PlanOptions("replicas"))
    path = f"{tmp_path}/plan.json"
    save_plan(found, path)
    assert load_plan(path) == found
    wider = found.among([0, 2, 3, 5], 6)
    assert [ranks_of(lane) for lane in wider.lanes] == [{0}, {2}, {3}, {5}]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scheme": "rows", "objective": "throughput"}, "auto, pipeline or replicas, not --scheme rows"),
        ({"scheme": "pipeline", "pins": ("features.0=0",)}, "--pin is for plans of one frame"),
        ({"scheme": "replicas", "keep_input_home": True}, "--keep-input-home is for plans of one frame"),
        ({"scheme": "replicas", "deadline_s": 1.0}, "--deadline is for plans of one frame"),
        ({"scheme": "pipeline", "objective": "energy"}, "--objective energy is for plans of one frame"),
        ({"objective": "throughput", "pins": ("features.0=0",)}, "--pin is for plans of one frame"),
        ({"objective": "throughput", "deadline_s": 1.0}, "leave one out"),
    ],
)
def test_options_of_one_frame_are_refused_for_streams(options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        plan(net("squeezenet1_1", 64), FAST, PlanOptions(**options))  # type: ignore[arg-type]
