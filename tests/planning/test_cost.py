"""Seconds: the busiest card decides, and the processor's part comes on top."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fogconv.hardware.topology import Topology
from fogconv.ir.geometry import Region
from fogconv.ir.layout import Transfer
from fogconv.ir.program import WIRE_BYTES
from fogconv.ir.shard import Work
from fogconv.planning.cost import Prices
from tests.chains import chain

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
    assert traffic.cpu_s == pytest.approx(2 * BYTES * 1e-7 + 5e-4)
    assert traffic.seconds == pytest.approx(1e-3 + BYTES / 1e6 + traffic.cpu_s)


def test_what_was_measured_of_a_bytes_way_takes_the_place_of_the_systems_copy() -> None:
    topology = Topology.uniform(2, 2e9, 1e6, 1e-3, copy_s_per_byte=1e-7)
    for rank in topology.ranks:
        measured = replace(topology.devices[rank], send_s_per_byte=3e-7, receive_s_per_byte=2e-7)
        topology = topology.replace_device(rank, measured)
    assert Prices(topology).traffic([Transfer(0, 1, WHOLE)]).cpu_s == pytest.approx(BYTES * (1e-7 + 3e-7))


def test_half_the_bytes_in_sixteen_bits() -> None:
    topology = Topology.uniform(2, 2e9, 1e6)
    sent = {wire: Prices(topology, 1, wire).traffic([Transfer(0, 1, WHOLE)]).card_bytes[0][0] for wire in ("fp32", "fp16")}
    assert sent["fp16"] == sent["fp32"] / 2 == WHOLE.elements * WIRE_BYTES["fp16"]


def test_the_slowest_rank_is_the_layers_time() -> None:
    layer = chain(16, 16, size=8).convs[0]
    whole = Region.whole(16, 8, 8)
    works = [Work(1, whole), Work(2, whole), Work(2, whole)]
    cost = prices()
    assert cost.slowest_s(layer, works) == pytest.approx(2 * cost.work_s(layer, works[0]))
    assert cost.work_s(layer, works[0]) == pytest.approx(layer.spec.macs / 1e9)
