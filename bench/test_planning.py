"""Partition and join, lowering, planning: the master's work before and around an inference."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from fogconv.frontend.torch.export import export
from fogconv.hardware.topology import Topology
from fogconv.ir.geometry import ConvSpec, Region, Span
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layout import Layout, on, replicate, shard_rows, transfers
from fogconv.ir.shard import conv_grid, split
from fogconv.kernels.maps import pack
from fogconv.kernels.maps.wire import bind_extract, bind_insert, wire_elements
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.planning.schemes import ONE_FRAME
from fogconv.zoo.models import load_model

NODES = 5
SPEC = ConvSpec(256, 256, 28, 28, (3, 3), padding=(1, 1, 1, 1))


@cache
def graph_of(name: str) -> LayerGraph:
    known = load_model(name, weights="random")
    return export(known.module, known.example(), name)


def topology() -> Topology:
    """Five nodes as in the emulated cluster: 10 GFLOP/s at a tenth of a core, 1 Gbit/s."""
    return Topology.uniform(NODES, 10e9, 125e6, 2e-4, copy_s_per_byte=2e-9, step_s=2e-5)


@pytest.mark.parametrize(("p", "q"), [(1, 4), (4, 1), (2, 2)])
def test_shards_of_a_conv(benchmark: Any, p: int, q: int) -> None:
    shards = benchmark(conv_grid, SPEC, tuple(range(1, p * q + 1)), p, (1.0,) * (p * q))
    assert len(shards) == p * q


def test_transfers_of_a_halo_exchange(benchmark: Any) -> None:
    whole = Region.whole(256, 56, 56)
    held = shard_rows(whole, split(56, [1.0] * NODES))
    rows = [region.rows for (region,) in held.regions]
    grown = [Span(max(0, span.start - 1), min(56, span.stop + 1)) for span in rows]
    needed = Layout(tuple((whole.with_rows(span),) for span in grown))
    assert len(benchmark(lambda: list(transfers(held, needed)))) == 2 * (NODES - 1)


def test_transfers_of_a_broadcast(benchmark: Any) -> None:
    whole = Region.whole(256, 56, 56)
    held, needed = on(0, whole, NODES), replicate(whole, NODES)
    assert len(benchmark(lambda: list(transfers(held, needed)))) == NODES - 1


@pytest.mark.parametrize("split_by", ["input", "output"])
def test_partition_and_join(benchmark: Any, split_by: str) -> None:
    """The star's master's work around a conv of 256 → 256 channels at 28×28: T_part and T_join, without the wire.

    By input channels: four shards of the input are cut out, four whole outputs come back and are summed. By output
    channels: the whole input is cut out for each, four shards come back and are concatenated.
    """
    source = pack.pack(np.random.default_rng(0).standard_normal(SPEC.input_shape).astype(np.float32))
    target = pack.pack(np.zeros(SPEC.output_shape, np.float32))
    calls = []
    for shard in range(4):
        first, quarter = 64 * shard, 64
        cut = (first, quarter) if split_by == "input" else (0, 256)
        back = (0, 256) if split_by == "input" else (first, quarter)
        out = np.empty(wire_elements(1, cut[1], 28, 28), np.float32)
        returned = np.ones(wire_elements(1, back[1], 28, 28), np.float32)
        calls.append(bind_extract(source, cut[0], cut[1], out))
        calls.append(bind_insert(returned, target, back[0], back[1], split_by == "input" and shard > 0))

    def master() -> None:
        for call in calls:
            call()

    benchmark(master)
    assert pack.unpack(target).max() == (4.0 if split_by == "input" else 1.0)


@pytest.mark.parametrize("scheme", ["star", "auto"])
@pytest.mark.parametrize("name", ["resnet50", "vgg16"])
def test_lowering(benchmark: Any, name: str, scheme: str) -> None:
    graph = graph_of(name)
    found = plan(graph, topology(), PlanOptions(scheme, threshold=0.0))
    lowered = benchmark.pedantic(lower, (graph, found), rounds=3)
    assert len(lowered.programs) == NODES


@pytest.mark.parametrize("scheme", ONE_FRAME)
@pytest.mark.parametrize("name", ["resnet50", "inception_v3", "vgg16", "mobilenet_v2"])
def test_planning(benchmark: Any, name: str, scheme: str) -> None:
    """The limit: ResNet-50 for 5 nodes in at most 1 s, Inception-v3 in at most 3 s."""
    graph, nodes = graph_of(name), topology()
    found = benchmark.pedantic(lambda: plan(graph, nodes, PlanOptions(scheme)), rounds=3)
    assert len(found.placements) == len(graph.layers)


@pytest.mark.parametrize("name", ["resnet50"])
def test_exporting(benchmark: Any, name: str) -> None:
    known = load_model(name, weights="random")
    graph = benchmark.pedantic(lambda: export(known.module, known.example(), name), rounds=1)
    assert graph.convs
