"""Candidates: what they take, and what they miss."""

from __future__ import annotations

import pytest

from fogconv.choice.candidate import Limits, candidate, least_joules, least_seconds
from fogconv.frontend.zoo_graphs import graph
from fogconv.hardware.presets import preset
from fogconv.hardware.topology import Topology
from fogconv.ir.memory.footprint import PROCESS_BYTES
from fogconv.planning.memory import needed_bytes
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan

PI4 = preset("pi4").topology(4)
SMALL = "squeezenet1_1"


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("name", [SMALL, "mobilenet_v3_small", "alexnet"])
def test_the_bound_lies_below_every_plan(name: str, workers: int) -> None:
    topology = preset("pi4").topology(workers)
    found = graph(name)
    for scheme in ("rows", "auto", "local", "star", "depth"):
        predicted_s = plan(found, topology, PlanOptions(scheme)).predicted_s
        assert predicted_s is not None and least_seconds(found, topology) <= predicted_s, scheme


def test_its_figures_are_those_of_its_plan() -> None:
    found, topology = graph(SMALL), PI4
    made = plan(found, topology, PlanOptions("rows"))
    ours = candidate(SMALL, topology, Limits())
    assert ours.seconds == made.predicted_s and ours.meets_all and ours.scheme == "rows"
    assert ours.memory_bytes == PROCESS_BYTES + max(needed_bytes(found, made, topology))
    assert ours.alone_s == plan(found, topology.subset([0]), PlanOptions("local")).predicted_s
    assert ours.top1 == 58.178


def test_energy_is_more_than_idling_and_less_than_all_boards_at_full_power() -> None:
    ours = candidate(SMALL, PI4, Limits())
    assert ours.joules is not None and ours.ranks == 5
    assert 5 * 3.1 * ours.seconds < ours.joules < 5 * (7.2 + 2) * ours.seconds


def test_a_cluster_without_known_power_has_no_energy() -> None:
    assert candidate(SMALL, Topology.uniform(3, 10e9, 1e8), Limits()).joules is None


def test_each_limit_that_is_missed_says_by_how_much() -> None:
    free = candidate(SMALL, PI4, Limits())
    assert free.joules is not None and free.memory_bytes is not None
    late = candidate(SMALL, PI4, Limits(seconds=free.seconds / 1.5), "rows")
    assert dict(late.missed) == {"deadline": pytest.approx(1.5)}
    dear = candidate(SMALL, PI4, Limits(joules=free.joules / 2), "rows")
    assert dict(dear.missed) == {"energy": pytest.approx(2)}
    large = candidate("alexnet", preset("pi4").topology(1), Limits(memory_bytes=330_000_000))
    assert [what for what, _ in large.missed] == ["memory"] and large.alone_s is None


def test_a_model_that_cannot_be_in_time_is_not_planned() -> None:
    found = candidate("vgg16", PI4, Limits(seconds=0.01))
    assert found.at_least and found.memory_bytes is None and not found.meets_all
    assert dict(found.missed)["deadline"] == pytest.approx(found.seconds / 0.01)


def test_where_rows_do_not_fit_another_way_is_found() -> None:
    """By rows every rank has all of alexnet's weights; dealt out, they fit."""
    limit = 500_000_000
    rows = candidate("alexnet", PI4, Limits(memory_bytes=limit), "rows")
    found = candidate("alexnet", PI4, Limits(memory_bytes=limit))
    assert found.meets_all and found.memory_bytes is not None and found.memory_bytes <= limit
    assert rows.memory_bytes is not None and (not rows.meets_all or rows.seconds >= found.seconds)


def test_a_given_scheme_is_kept_to() -> None:
    assert candidate(SMALL, PI4, Limits(seconds=0.0159), "local").scheme == "local"


def test_the_master_alone_is_taken_where_only_that_meets_the_energy() -> None:
    """Five boards are a little faster than one here, and take four times the energy."""
    free = candidate(SMALL, PI4, Limits())
    assert free.alone_s is not None and free.ranks == 5 and free.seconds < free.alone_s
    found = candidate(SMALL, PI4, Limits(joules=7.2 * free.alone_s * 1.1))
    assert found.meets_all and found.ranks == 1 and found.scheme == "local"
    assert found.seconds == found.alone_s and found.joules == pytest.approx(7.2 * free.alone_s, rel=0.05)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_no_plan_takes_less_energy_than_the_bound(name: str) -> None:
    topology = preset("pi4").topology(3)
    least = least_joules(graph(name), topology)
    found = candidate(name, topology, Limits())
    alone = candidate(name, topology, Limits(), "local")
    assert found.joules is not None and alone.joules is not None
    assert 0 < least <= min(found.joules, alone.joules) * 1.0001


def test_a_model_that_no_plan_makes_frugal_enough_is_not_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fogconv.choice.candidate.make_plan", None)
    found = candidate("resnet18", preset("pi4").topology(3), Limits(joules=0.01))
    assert found.at_least and dict(found.missed)["energy"] > 1 and found.joules is not None and found.memory_bytes is None
