"""Stages: the slowest rank takes as little as any division of consecutive layers allows, within everyone's memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations_with_replacement

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.hardware.topology import Topology
from fogconv.planning.streams.group import Group
from fogconv.planning.streams.partition import Loads, Stage, partition
from tests.chains import chain

GRAPH = chain(16, 64, 32, 64, 16, 48, residual=True)
LAYERS = len(GRAPH.layers)
rates = st.lists(st.floats(0.1, 10.0), min_size=1, max_size=4)


def loads_on(speeds: list[float], bandwidth_bytes_per_s: float = 1e7) -> Loads:
    topology = Topology.uniform(len(speeds), 2e9, bandwidth_bytes_per_s, 1e-4, copy_s_per_byte=1e-9, step_s=1e-5)
    for rank, speed in enumerate(speeds):
        topology = topology.replace_device(rank, topology.devices[rank].scaled(speed))
    return Loads(GRAPH, topology, "fp32")


def alone(ranks: int) -> list[Group]:
    return [(rank,) for rank in range(ranks)]


def slowest_s(loads: Loads, stages: tuple[Stage, ...]) -> float:
    return max(loads.stage_s(stage.group, stage.start, stage.stop) for stage in stages)


def every_partition(ranks: int) -> Iterator[tuple[Stage, ...]]:
    for cuts in combinations_with_replacement(range(LAYERS + 1), ranks - 1):
        ends = (0, *cuts, LAYERS)
        yield tuple(Stage((rank,), ends[rank], ends[rank + 1]) for rank in range(ranks) if ends[rank] < ends[rank + 1])


@settings(deadline=None, max_examples=20)
@given(rates, st.floats(1e5, 1e9))
def test_no_partition_has_a_faster_slowest_stage(speeds: list[float], bandwidth_bytes_per_s: float) -> None:
    loads = loads_on(speeds, bandwidth_bytes_per_s)
    found = partition(loads, alone(len(speeds)), {}, {}, {})
    assert found is not None
    assert [stage.start for stage in found] == [0, *(stage.stop for stage in found[:-1])] and found[-1].stop == LAYERS
    best = min(slowest_s(loads, each) for each in every_partition(len(speeds)))
    assert slowest_s(loads, found) == pytest.approx(best)


@settings(deadline=None, max_examples=20)
@given(rates, st.floats(1e4, 1e6))
def test_no_stage_takes_more_memory_than_there_is(speeds: list[float], room: float) -> None:
    loads = loads_on(speeds)

    def taken(stage: Stage) -> float:
        maps, plain = (each[stage.start : stage.stop] for each in (loads.maps, loads.plain))
        return loads.stage_bytes(stage.start, stage.stop, 2, max(maps), max(plain))

    ranks = range(len(speeds))
    found = partition(loads, alone(len(speeds)), dict.fromkeys(ranks, room), dict.fromkeys(ranks, 2), {})
    possible = [each for each in every_partition(len(speeds)) if all(taken(stage) <= room for stage in each)]
    assert (found is None) == (not possible)
    if found is not None:
        assert all(taken(stage) <= room for stage in found)
        assert slowest_s(loads, found) == pytest.approx(min(slowest_s(loads, each) for each in possible))


def test_a_rank_that_is_busy_with_something_else_gets_less() -> None:
    loads = loads_on([1.0, 1.0])
    free, busy = (partition(loads, alone(2), {}, {}, {0: seconds}) for seconds in (0.0, loads.stage_s((0,), 0, LAYERS)))
    assert free is not None and busy is not None
    assert free[0].group == (0,) and busy[0].group == (1,) and len(busy) == 1
    assert math.isfinite(slowest_s(loads, busy))
