"""Energy and deadlines: equal to an exhaustive search on nets of six layers, counted as the simulator counts."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fogconv.errors import DeadlineError, InputError
from fogconv.hardware.presets import preset
from fogconv.hardware.topology import Device, Link, Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.plan import Placement, Plan
from fogconv.ir.shard import Work
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.simulation.prediction import predicted
from tests.chains import chain


def device(draw: st.DrawFn, name: str) -> Device:
    """Without the costs of copies and steps, which a search adds up otherwise than they overlap."""
    gamma = draw(st.floats(1e-11, 1e-9))
    idle = draw(st.floats(0, 5))
    return Device(name, {"default": gamma}, idle_watts=idle, busy_watts=idle + draw(st.floats(0.1, 20)))


@st.composite
def problems(draw: st.DrawFn) -> tuple[LayerGraph, Topology]:
    ranks = draw(st.sampled_from((2, 2, 2, 3)))
    channels = draw(st.lists(st.sampled_from((1, 4, 16, 64)), min_size=7, max_size=7))
    devices = tuple(device(draw, f"d{rank}") for rank in range(ranks))
    bandwidth, latency = draw(st.floats(1e5, 1e9)), draw(st.floats(0, 1e-2))
    link = Link(latency, 1 / bandwidth, joules_per_byte=draw(st.floats(0, 1e-6)), wake_joules=draw(st.floats(0, 1e-2)))
    return chain(*channels, size=16), Topology(devices, {}, link)


def every_plan(graph: LayerGraph, topology: Topology) -> list[Plan]:
    """Of all assignments of layers to ranks, simulated."""
    found = []
    for ranks in product(topology.ranks, repeat=len(graph.layers)):
        works = (Work(rank, graph.tensors[layer.writes[0]].region) for rank, layer in zip(ranks, graph.layers, strict=True))
        placements = tuple(Placement("offload", (work,)) for work in works)
        found.append(predicted(graph, Plan(graph.name, len(topology), "offload", placements), topology))
    return found


def joules(found: Plan) -> float:
    assert found.predicted_j is not None
    return found.predicted_j


def seconds(found: Plan) -> float:
    assert found.predicted_s is not None
    return found.predicted_s


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(problems(), st.floats(0, 1))
def test_the_search_finds_what_an_exhaustive_one_finds(problem: tuple[LayerGraph, Topology], share: float) -> None:
    graph, topology = problem
    every = every_plan(graph, topology)
    by_time = sorted(map(seconds, every))
    assert seconds(plan(graph, topology, PlanOptions("offload"))) == pytest.approx(by_time[0], rel=1e-6)
    least = plan(graph, topology, PlanOptions("offload", objective="energy"))
    assert joules(least) == pytest.approx(min(map(joules, every)), rel=1e-6)
    # A deadline between the fastest plan and the one of least energy is where the two pull apart.
    deadline_s = max(1e-6, by_time[0] + share * max(0.0, seconds(least) - by_time[0])) * 1.0001
    kept = plan(graph, topology, PlanOptions("offload", deadline_s=deadline_s))
    assert seconds(kept) <= deadline_s
    assert joules(kept) == pytest.approx(min(joules(each) for each in every if seconds(each) <= deadline_s), rel=1e-6)


def uneven() -> Topology:
    """A slow, frugal master and a fast, hungry worker."""
    board = preset("pi4").topology(1)
    hungry = replace(board.devices[1].scaled(10.0), idle_watts=10.0, busy_watts=150.0)
    return board.replace_device(1, hungry)


NET = chain(64, 256, 256, 256, size=56)


def test_least_energy_is_slower_than_least_time_and_a_deadline_lies_between() -> None:
    topology = uneven()
    fast, frugal = plan(NET, topology), plan(NET, topology, PlanOptions(objective="energy"))
    assert seconds(fast) < seconds(frugal) and joules(fast) > joules(frugal)
    deadline_s = (seconds(fast) + seconds(frugal)) / 2
    kept = plan(NET, topology, PlanOptions(deadline_s=deadline_s))
    assert seconds(kept) <= deadline_s and joules(frugal) <= joules(kept) <= joules(fast)


def test_a_deadline_that_nothing_keeps_names_the_nearest_plan_and_its_time() -> None:
    topology = uneven()
    with pytest.raises(DeadlineError, match=r"deadline of 1 µs: the nearest \(.*\) takes .* ms$") as raised:
        plan(NET, topology, PlanOptions(deadline_s=1e-6))
    # Its search keeps more paths than the one for the least time, and may find a faster one.
    assert float(str(raised.value).split()[-2]) / 1e3 == pytest.approx(seconds(plan(NET, topology)), rel=0.03)


def test_an_energy_that_is_not_known_is_not_looked_for() -> None:
    topology = Topology.uniform(2, 1e9, 1e8)
    with pytest.raises(InputError, match=r"power of rank 0 .* is not known"):
        plan(NET, topology, PlanOptions(objective="energy"))
    assert plan(NET, topology).predicted_j is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"objective": "beauty"}, "latency, throughput, energy"),
        ({"objective": "latency", "deadline_s": 1.0}, "leave one out"),
        ({"deadline_s": 0.0}, "deadline_s 0.0"),
        ({"scheme": "star", "objective": "energy"}, "for the other schemes"),
    ],
)
def test_impossible_goals_are_answered(options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        PlanOptions(**options)  # type: ignore[arg-type]
