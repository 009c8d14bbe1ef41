"""Who was left out for being slow is asked again, seldom enough, and gets its work back when it is fast."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogconv.hardware.topology import Link, Topology
from fogconv.ir.geometry import ConvSpec
from fogconv.ir.program import Program
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime import probation as reprieve
from fogconv.runtime.engine import Engine
from fogconv.runtime.probation import (
    FIRST_S,
    LONGEST_S,
    PROBE_S,
    Probation,
    device_recovered,
    link_recovered,
    probe_bytes,
    restored,
)
from tests.cluster.fault_cluster import FaultCluster, SlowExecutable, SlowHub, assert_right, image, network

SPEC = ConvSpec(16, 16, 8, 8, (3, 3))


def cluster() -> Topology:
    return Topology.uniform(4, 1e9, 1e7, 1e-4)


def test_one_is_asked_after_a_while_and_then_ever_more_rarely() -> None:
    asked, now_s, mine = [], 0.0, Probation()
    while now_s < 2000.0:
        mine = mine.watch({2}, now_s)
        if mine.due(now_s):
            asked.append(now_s)
            mine = mine.still_slow(2, now_s)
        now_s += 1.0
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert asked[0] == FIRST_S
    assert gaps[:3] == [2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S]
    assert max(gaps) == LONGEST_S


def test_who_has_work_again_is_not_asked() -> None:
    mine = Probation().watch({1, 2}, 0.0).watch({2}, 1.0)
    assert mine.due(1e9) == (2,)


@given(st.floats(1e-10, 1e-5), st.floats(4.0, 64.0), st.floats(0.7, 1.4))
def test_a_link_is_told_from_one_that_is_still_thin(s_per_byte: float, thinner: float, noise: float) -> None:
    first, corrected = Link(1e-4, s_per_byte), Link(1e-4, thinner * s_per_byte)
    n_bytes = probe_bytes(first)
    taken_s = [2 * link.latency_s + n_bytes * link.s_per_byte for link in (first, corrected)]
    if taken_s[1] > 4 * taken_s[0]:
        assert link_recovered(first, corrected, n_bytes, noise * taken_s[0])
        assert not link_recovered(first, corrected, n_bytes, noise * taken_s[1])
    assert n_bytes in (reprieve.LEAST_PROBE_BYTES, reprieve.MOST_PROBE_BYTES) or n_bytes * s_per_byte == pytest.approx(
        PROBE_S, rel=1e-3
    )


def test_a_device_is_held_against_both_of_its_figures() -> None:
    first = cluster()
    now = first.replace_device(2, first.devices[2].scaled(0.2))
    usual_s = first.devices[2].conv_s(SPEC)
    assert device_recovered(first, now, 2, SPEC, 1.5 * usual_s)
    assert not device_recovered(first, now, 2, SPEC, 4 * usual_s)
    assert device_recovered(first, first, 2, SPEC, 100 * usual_s), "nothing is held against it"


def test_what_is_given_back_is_one_ranks_only() -> None:
    first = cluster()
    now = first
    for rank in (2, 3):
        now = now.replace_device(rank, now.devices[rank].scaled(0.5))
    thin = Link(1e-4, 1e-3)
    now = Topology(now.devices, {(0, 2): thin, (2, 3): thin, (3, 0): thin}, now.default_link)
    after = restored(first, now, 2)
    assert after.devices[2] == first.devices[2] and after.devices[3] == now.devices[3]
    assert after.link(0, 2) == first.link(0, 2) and after.link(2, 3) == first.link(2, 3)
    assert after.link(3, 0) == thin


def slow_local(program: Program, weights: Any, host: Any) -> SlowExecutable:
    return SlowExecutable(program, weights, host=host)


def test_a_worker_whose_link_is_whole_again_gets_its_work_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reprieve, "FIRST_S", 0.2)
    hub = SlowHub(2e6)
    with FaultCluster(3, hub=hub, build=SlowExecutable, local=slow_local) as faulty:
        topology = Topology.uniform(
            4, SlowExecutable.RATE, hub.bytes_per_s, hub.LATENCY_S, copy_s_per_byte=1e-11, step_s=1e-7
        )
        engine = Engine(network(), faulty.session, topology, PlanOptions())

        def until(works: bool, most: int) -> None:
            for _ in range(most):
                assert_right(engine.run(image()).output)
                if (3 in engine.plan.active_ranks) == works:
                    return
            raise AssertionError(list(engine.events))

        for _ in range(3):
            assert_right(engine.run(image()).output)
        assert 3 in engine.plan.active_ranks
        hub.rate = lambda origin, to: hub.bytes_per_s / (40 if "worker/3" in (origin, to) else 1)
        until(False, 30)
        hub.rate = lambda origin, to: hub.bytes_per_s
        until(True, 200)
        assert any("as fast as at the start" in event for event in engine.events)
    hub.close()
