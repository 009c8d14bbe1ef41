"""What the spread of rates leaves open: rival schemes, and rates that decide."""

from __future__ import annotations

import pytest

from fogconv.choice import noise
from fogconv.choice.noise import cuts, moved, rivals, stability
from fogconv.frontend.zoo_graphs import graph
from fogconv.hardware.presets import preset
from fogconv.hardware.profile import Profile
from fogconv.hardware.topology import Device, Topology
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.planning.schemes import STREAMS, Scheme

SMALL = graph("squeezenet1_1")


def cluster(workers: int = 2) -> Topology:
    """With links of their own, as a profile has them."""
    return Profile.of(preset("pi4").topology(workers)).topology()


def spreads(gamma: float, links: float, workers: int = 2) -> dict[str, float]:
    found = {
        f"gamma rank {rank} {kind}": gamma for rank in range(workers + 1) for kind in ("direct", "direct1x1", "winograd")
    }
    for rank in range(1, workers + 1):
        found |= {f"alpha 0↔{rank}": links, f"beta 0→{rank}": links, f"beta {rank}→0": links}
    return found


def test_every_scheme_has_an_effort() -> None:
    assert set(noise._EFFORTS) == set(Scheme) - set(STREAMS)


def test_a_rate_moves_alone() -> None:
    start = cluster()
    slow = moved(start, "gamma rank 1 winograd", 2.0)
    assert slow.devices[1].gamma("winograd") == 2 * start.devices[1].gamma("winograd")
    assert slow.devices[1].gamma("default") == start.devices[1].gamma("default") and slow.devices[2] == start.devices[2]
    late = moved(start, "alpha 0↔2", 3.0)
    assert late.link(0, 2).latency_s == late.link(2, 0).latency_s == pytest.approx(3 * start.link(0, 2).latency_s)
    assert late.link(0, 1) == start.link(0, 1)
    thin = moved(start, "beta 2→0", 4.0)
    assert thin.link(2, 0).s_per_byte == 4 * start.link(2, 0).s_per_byte and thin.link(0, 2) == start.link(0, 2)


def test_a_default_rate_that_is_a_mean_moves_with_its_kernels() -> None:
    gamma = {"default": 2e-11, "winograd": 1e-11, "direct": 4e-11, "linear": 9e-11}
    start = Topology((Device("a", gamma),))
    assert moved(start, "gamma rank 0 direct", 4.0).devices[0].gamma() == pytest.approx(4e-11)
    assert moved(start, "gamma rank 0 linear", 4.0).devices[0].gamma() == 2e-11


@pytest.mark.parametrize("name", ["gamma rank 9 direct", "alpha 0↔9", "beta 7→8", "gamma pi5 direct", "", "step rank 0"])
def test_a_rate_that_is_not_there_moves_nothing(name: str) -> None:
    assert moved(cluster(), name, 2.0).devices == cluster().devices
    assert moved(cluster(), name, 2.0).links == cluster().links


def test_the_plan_of_a_scheme_is_within_the_noise_of_auto_where_auto_chose_it() -> None:
    found = rivals(SMALL, plan(SMALL, cluster()), cluster(), PlanOptions(), {})
    by_name = {rival.scheme: rival for rival in found}
    assert set(by_name) == {"rows", "columns", "tiles", "star", "depth", "local"}
    assert by_name["tiles"].same and by_name["tiles"].within
    assert not by_name["local"].within and by_name["local"].noise_s is None
    assert [rival.predicted_s for rival in found] == sorted(rival.predicted_s for rival in found)


def test_more_spread_lets_in_more_rivals() -> None:
    chosen = plan(SMALL, cluster(), PlanOptions("rows"))

    def within(spread: float) -> set[str]:
        found = rivals(SMALL, chosen, cluster(), PlanOptions("rows"), spreads(spread, spread))
        assert all(rival.noise_s is not None and rival.noise_s >= 0 for rival in found)
        return {rival.scheme for rival in found if rival.within and not rival.same}

    assert within(0.001) <= within(0.2) <= within(5.0)
    assert not within(0.001) and "local" in within(5.0)


def test_a_rate_that_both_plans_owe_as_much_to_is_no_noise() -> None:
    terms = {"gamma rank 0 direct": 0.1, "links": 0.02}
    assert noise._noise_s(terms, terms, {"gamma rank 0 direct": 0.5, "beta 0→1": 0.5}) == 0
    assert noise._noise_s(terms, {}, {"gamma rank 0 direct": 0.5}) == pytest.approx(0.05)
    assert noise._noise_s(terms, {}, {"gamma rank 0 direct": 0.3, "beta 0→1": 2.0}) == pytest.approx(0.05)


def test_the_star_s_own_options_are_not_asked_of_other_schemes() -> None:
    options = PlanOptions("star", threshold=0.0, parts=3)
    found = rivals(SMALL, plan(SMALL, cluster(), options), cluster(), options, {})
    assert {rival.scheme for rival in found} == {"auto", "rows", "columns", "tiles", "depth", "local"}


def test_a_plan_stays_within_small_spreads() -> None:
    found = stability(SMALL, cluster(), spreads(0.01, 0.01), PlanOptions("rows"))
    assert found.together == 0 and set(found.changes.values()) == {0} and found.model == "squeezenet1_1"
    assert set(found.changes) == set(spreads(0, 0))


def test_the_rate_that_decides_is_named() -> None:
    """Where the bandwidth is just enough to share the work, the links decide, and the kernels' rates little."""
    slow = preset("pi4").topology(1)
    slow = Profile.of(slow).topology()
    thin = moved(moved(slow, "beta 0→1", 12.0), "beta 1→0", 12.0)
    found = stability(SMALL, thin, spreads(0.0, 2.0, 1), PlanOptions("rows"))
    assert found.together > 0
    assert any(found.changes[name] for name in ("beta 0→1", "beta 1→0", "alpha 0↔1"))
    assert all(not layers for name, layers in found.changes.items() if name.startswith("gamma"))
    layers = len(SMALL.layers)
    assert found.layers <= layers and all(layers is None or layers >= 0 for layers in found.changes.values())


def test_without_time_rates_are_untried_and_not_taken_to_be_harmless() -> None:
    slow = Profile.of(preset("pi4").topology(1)).topology()
    thin = moved(moved(slow, "beta 0→1", 12.0), "beta 1→0", 12.0)
    found = stability(SMALL, thin, spreads(0.0, 2.0, 1), PlanOptions("rows"), budget_s=-1.0)
    if found.together:
        assert found.changes["beta 0→1"] is None
    assert found.changes["gamma rank 0 direct"] == 0


def test_cuts_do_not_follow_the_sizes_of_shares() -> None:
    first = plan(SMALL, cluster(), PlanOptions("rows"))
    second = plan(SMALL, moved(cluster(), "gamma rank 1 default", 1.3), PlanOptions("rows"))
    assert [each.work for each in first.placements] != [each.work for each in second.placements]
    assert cuts(first) == cuts(second)


def test_searches_over_large_clusters_are_left_out() -> None:
    large = preset("pi4").topology(60)
    chosen = plan(SMALL, large, PlanOptions("local"))
    assert {rival.scheme for rival in rivals(SMALL, chosen, large, PlanOptions("local"), {})} == {"star"}
