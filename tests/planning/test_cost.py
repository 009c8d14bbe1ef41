"""Seconds: the busiest card decides, and the processor's part comes on top."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from fogconv.hardware.latency.features import MAP_KINDS
from fogconv.hardware.topology import KERNEL_CLASSES, Device, Link, Topology
from fogconv.ir.geometry import Region, Span
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Host
from fogconv.ir.layout import Transfer
from fogconv.ir.shard import Work
from fogconv.ir.steps import WIRE_BYTES, Copy, HostOutput, Input, Output
from fogconv.ir.steps import Host as HostStep
from fogconv.lowering.lower import lower
from fogconv.planning.cost import Prices
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.simulation.simulator import simulate
from tests.chains import chain
from tests.random_graphs import graphs

UNLIKE = Device(
    "d",
    {"default": 1e-9, **{kind: (2 + number) * 1e-9 for number, kind in enumerate(KERNEL_CLASSES)}},
    copy_s_per_byte=1e-10,
    step_s=1e-6,
    map_s_per_byte={kind: (3 + number) * 1e-10 for number, kind in enumerate(MAP_KINDS)},
)
"""A device on which every type of step has a rate of its own."""

WHOLE = Region.whole(10, 10, 10)
BYTES = 4000


def prices(**options: float) -> Prices:
    return Prices(Topology.uniform(4, 2e9, 1e6, 1e-3, **options))  # type: ignore[arg-type]


def test_one_card_sends_one_byte_after_the_other() -> None:
    one = prices().traffic([Transfer(0, 1, WHOLE)])
    three = prices().traffic([Transfer(0, rank, WHOLE) for rank in (1, 2, 3)])
    assert one.seconds == pytest.approx(1e-3 + BYTES / 1e6)
    assert three.seconds == pytest.approx(1e-3 + 3 * BYTES / 1e6)
    assert three.card_bytes == ((3 * BYTES, 0.0), (0.0, BYTES), (0.0, BYTES), (0.0, BYTES))


def test_different_cards_and_both_directions_work_at_once() -> None:
    ring = [Transfer(rank, (rank + 1) % 4, WHOLE) for rank in range(4)]
    assert prices().traffic(ring).seconds == pytest.approx(prices().traffic(ring[:1]).seconds)


def test_the_processors_part_comes_on_top_and_is_told_apart() -> None:
    traffic = prices(copy_s_per_byte=1e-7, step_s=5e-4).traffic([Transfer(0, 1, WHOLE)])
    assert traffic.cpu_s == pytest.approx((4 * WHOLE.copied + BYTES) * 1e-7 + 5e-4)
    assert traffic.seconds == pytest.approx(1e-3 + BYTES / 1e6 + traffic.cpu_s)


def test_what_was_measured_of_a_bytes_way_takes_the_place_of_the_systems_copy() -> None:
    topology = Topology.uniform(2, 2e9, 1e6, 1e-3, copy_s_per_byte=1e-7)
    for rank in topology.ranks:
        measured = replace(topology.devices[rank], send_s_per_byte=3e-7, receive_s_per_byte=2e-7)
        topology = topology.replace_device(rank, measured)
    assert Prices(topology).traffic([Transfer(0, 1, WHOLE)]).cpu_s == pytest.approx(4 * WHOLE.copied * 1e-7 + BYTES * 3e-7)


def test_a_halo_of_columns_takes_longer_to_cut_out_than_one_of_as_many_rows() -> None:
    """Its pixels lie apart. On the wire both are as long."""
    whole = Region.whole(64, 56, 56)
    row, column = whole.with_rows(Span(0, 1)), Region(whole.channels, whole.rows, Span(0, 1))
    assert row.elements == column.elements == row.copied
    assert 1.1 * column.elements <= column.copied <= 2.0 * column.elements
    of_row, of_column = (prices(copy_s_per_byte=1e-7).traffic([Transfer(0, 1, box)]) for box in (row, column))
    assert of_row.card_bytes == of_column.card_bytes
    assert of_row.cpu_s < of_column.cpu_s < 2 * of_row.cpu_s


def test_half_the_bytes_in_sixteen_bits() -> None:
    topology = Topology.uniform(2, 2e9, 1e6)
    sent = {wire: Prices(topology, 1, wire).traffic([Transfer(0, 1, WHOLE)]).card_bytes[0][0] for wire in ("fp32", "fp16")}
    assert sent["fp16"] == sent["fp32"] / 2 == WHOLE.elements * WIRE_BYTES["fp16"]


def test_the_slowest_rank_is_the_layers_time() -> None:
    graph = chain(16, 16, size=8)
    layer = graph.convs[0]
    whole = Region.whole(16, 8, 8)
    works = [Work(1, whole), Work(2, whole), Work(2, whole)]
    cost = prices()
    assert cost.slowest_s(layer, works, graph.tensors) == pytest.approx(2 * cost.work_s(layer, works[0], graph.tensors))
    assert cost.work_s(layer, works[0], graph.tensors) == pytest.approx(layer.spec.macs / 1e9)


@settings(max_examples=60, deadline=None)
@given(graph=graphs())
def test_planner_and_simulator_price_every_step_alike(graph: LayerGraph) -> None:
    """A pool, a global mean and a channel shuffle cost the planner other sums than the simulator once."""
    topology = Topology((UNLIKE,))
    found = plan(graph, topology, PlanOptions("local"))
    [program] = lower(graph, found).programs
    cost = Prices(topology, graph.picture.batch)
    planned: dict[str, float] = {}
    for layer, placement in zip(graph.layers, found.placements, strict=True):
        if not isinstance(layer, Host) and not layer.relabels:
            planned[layer.name] = sum(cost.work_s(layer, work, graph.tensors) for work in placement.work)
    [times] = simulate([program], topology).times
    simulated: dict[str, float] = dict.fromkeys(planned, 0.0)
    for step, (begin, end) in zip(program.steps, times[0], strict=True):
        if not isinstance(step, Copy | Input | Output | HostOutput | HostStep):
            simulated[program.layers[step.layer]] += (end - begin) * 1e-9
    assert simulated == pytest.approx(planned, rel=1e-6, abs=2e-9)


def test_a_step_of_another_kind_costs_its_own_rate() -> None:
    topology = Topology((UNLIKE, UNLIKE), {}, Link(1e-4, 1e-9))
    graph = chain(16, 16, size=8)
    for layer in graph.layers:
        work = Work(1, graph.tensors[layer.writes[0]].region)
        assert Prices(topology).work_s(layer, work, graph.tensors) == UNLIKE.work_s(layer.computes(graph.tensors, work))
    halved = UNLIKE.scaled(2)
    spec = Copy(0, 0, Region.whole(16, 8, 8), 1, accumulate=True).work(3)
    assert halved.work_s(spec) == pytest.approx(UNLIKE.work_s(spec) / 2)
