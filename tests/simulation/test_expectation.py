"""What a rank's convs take is held against what they would take by its rate, with and without a quota."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from fogconv.hardware.topology import Link, Topology
from fogconv.ir.program import Program
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan
from fogconv.simulation.expectation import Expectation, computing_s, messages, whole_s
from fogconv.simulation.simulator import Disturbance, simulate
from tests.cluster.fault_cluster import network

PLAIN = Topology.uniform(4, 1e8, 1e8, 1e-5, copy_s_per_byte=1e-10, step_s=1e-6)
THROTTLED = replace(
    PLAIN,
    devices=tuple(
        replace(device, share=0.1, period_s=0.01, tick_s=0.004, message_s=2e-3, gamma_s_per_mac={"default": 4e-8})
        for device in PLAIN.devices
    ),
    default_link=Link(1e-4, 1e-8),
)
WHOLE = -1


@cache
def rows() -> tuple[Program, ...]:
    return lower(network(), plan(network(), PLAIN, PlanOptions("rows"))).programs


def measured(topology: Topology, slower: float, seeds: Sequence[int]) -> dict[int, float]:
    """Mean seconds of the convs of each rank, and of the WHOLE, on a cluster that is so many times slower."""
    real = replace(topology, devices=tuple(device.scaled(1 / slower) for device in topology.devices))
    found: dict[int, list[float]] = {rank: [] for rank in (*topology.ranks, WHOLE)}
    for seed in seeds:
        timeline = simulate(rows(), real, inferences=4, disturbance=Disturbance(seed=seed), keep_events=False)
        for times in timeline.times[1:]:
            for rank, program in enumerate(rows()):
                found[rank].append(computing_s(program, times[rank]))
            found[WHOLE].append(whole_s(times[0]))
    return {rank: float(np.mean(seconds)) for rank, seconds in found.items()}


@pytest.mark.parametrize("slower", [0.25, 0.5, 0.75, 1.0, 1.5, 3.0])
def test_without_a_quota_a_rate_is_found_exactly(slower: float) -> None:
    expectation = Expectation(rows(), PLAIN)
    seconds = measured(PLAIN, slower, [0])
    assert expectation.all_slower(seconds.pop(WHOLE)) is None
    for rank, each in seconds.items():
        assert expectation.slower(rank, each) == pytest.approx(slower, rel=1e-3)


@pytest.mark.parametrize("slower", [0.25, 0.5, 0.75, 1.0, 1.5, 3.0])
def test_under_a_quota_a_rate_is_found_though_convs_run_in_bursts(slower: float) -> None:
    """By the time of its convs alone a device seems up to ten times faster than it is in the long run."""
    expectation = Expectation(rows(), THROTTLED)
    seconds = measured(THROTTLED, slower, range(100, 112))
    assert expectation.all_slower(seconds.pop(WHOLE)) == pytest.approx(slower, rel=0.12)
    found = [expectation.slower(rank, each) for rank, each in seconds.items()]
    assert np.median(found) == pytest.approx(slower, rel=0.12), found


def test_what_is_beyond_all_bounds_is_bounded() -> None:
    expectation = Expectation(rows(), THROTTLED)
    assert expectation.slower(1, 1e-7) == pytest.approx(1 / 64)
    assert expectation.slower(1, 1e4) == pytest.approx(64)


def test_under_a_quota_messages_wait_for_both_ends() -> None:
    """By α and β alone all links would seem to have become slow."""
    throttled, plain = Expectation(rows(), THROTTLED), Expectation(rows(), PLAIN)
    timeline = simulate(rows(), THROTTLED, inferences=4, disturbance=Disturbance(seed=100), keep_events=False)
    found = [message for times in timeline.times[1:] for message in messages(rows(), times)]
    assert len({(message.origin, message.to) for message in found}) >= 6
    taken = [message.seconds / throttled.message_s(message.origin, message.to, message.tag, 1e-4) for message in found]
    assert 0.6 < np.mean(taken) < 1.6
    assert np.median([message.seconds / 1e-4 for message in found]) > 4
    assert {plain.message_s(m.origin, m.to, m.tag, 1e-4) for m in found} == {1e-4}
