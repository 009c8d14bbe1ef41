"""What computes by bursts: never more than its share in the long run, never slower than it after a rest."""

from __future__ import annotations

import random
from collections.abc import Generator
from typing import Any

import pytest
import simpy
from hypothesis import example, given
from hypothesis import strategies as st

from fogconv.hardware.topology import Device
from fogconv.simulation.processor import Card, Processor, Quota, after_rest_s

MS = 1e-3
THROTTLED = Device("d", {"default": 1.0}, share=0.2, period_s=5 * MS, tick_s=4 * MS)
phase = st.floats(0, 0.999)


def test_what_fits_into_the_quota_runs_at_full_speed() -> None:
    assert Quota(0.2, 5 * MS, 4 * MS).run(0.0, 1 * MS) == (pytest.approx(1 * MS), 0)


def test_what_is_overdrawn_by_the_next_tick_is_paid_for_in_whole_periods() -> None:
    """It runs to the tick at 4 ms, 3 ms over its quota: three periods pay for that, the fourth grants it something."""
    assert Quota(0.2, 5 * MS, 4 * MS).run(0.0, 4.5 * MS)[0] == pytest.approx(20.5 * MS)


def test_a_fine_tick_stops_it_at_its_quota() -> None:
    assert Quota(0.2, 5 * MS, 0.1 * MS).run(0.0, 2.9 * MS)[0] == pytest.approx(10.9 * MS)


@given(st.floats(0.01, 0.9), st.floats(0.001, 0.1), st.floats(0.0005, 0.1), st.floats(0, 2), phase, phase)
def test_in_the_long_run_it_gets_its_share(
    share: float, period_s: float, tick_s: float, cpu_s: float, a: float, b: float
) -> None:
    end, left = Quota(share, period_s, tick_s, (a, b)).run(0.0, cpu_s)
    assert left == 0
    assert end >= cpu_s * (1 - 1e-9)
    # What it may have beyond its share: the quota it began with, and what it overdraws by the next tick.
    assert end <= cpu_s / share + 2 * period_s
    assert end >= (cpu_s - share * period_s - tick_s) / share - period_s - 1e-9


@example(0.041015625, 0.000198756915, 0.96875, 0.0)  # a period begins between two ticks, after the work was broken off
@given(st.floats(1e-4, 0.05), st.floats(0, 0.05), phase, phase)
def test_work_that_is_broken_off_goes_on_where_it_was(cpu_s: float, until: float, a: float, b: float) -> None:
    whole, parts = (Quota(0.2, 5 * MS, 4 * MS, (a, b)) for _ in range(2))
    end, _ = whole.run(0.0, cpu_s)
    now, left = parts.run(0.0, cpu_s, until)
    assert now <= max(until, 0.0) or left == 0
    assert 0 <= left <= cpu_s
    if left:
        assert parts.run(now, left)[0] == pytest.approx(end, abs=5 * MS)


@given(st.floats(0, 0.1), st.floats(0, 0.1))
def test_after_a_rest_more_work_takes_longer_and_none_takes_more_than_in_the_long_run(one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert after_rest_s(THROTTLED, less) <= after_rest_s(THROTTLED, more) * (1 + 1e-9)
    assert 0.2 * more - 1e-9 <= after_rest_s(THROTTLED, more) <= more + 2 * THROTTLED.period_s
    assert after_rest_s(Device("free", {"default": 1.0}), more) == more


def _ends(device: Device, *works: tuple[float, float, bool]) -> list[float]:
    """When each of (begin, seconds, urgent) is done."""
    env = simpy.Environment()
    processor = Processor(env, device, random.Random(3))
    ends = [0.0] * len(works)

    def take(number: int, begin: float, seconds: float, urgent: bool) -> Generator[Any, Any, None]:
        yield env.timeout(begin)
        yield from processor.work(seconds, urgent=urgent)
        ends[number] = env.now

    for number, work in enumerate(works):
        env.process(take(number, *work))
    env.run()
    return ends


def test_what_is_urgent_goes_first_and_the_program_pays_for_it() -> None:
    alone = _ends(THROTTLED, (0.0, 1.0, False))[0]
    program, message = _ends(THROTTLED, (0.0, 1.0, False), (0.5, 0.01, True))
    assert message < 0.55
    assert program == pytest.approx(alone + 0.01, abs=0.02)


def test_urgent_work_that_came_at_the_same_moment_is_not_left_waiting() -> None:
    program, message = _ends(THROTTLED, (0.0, 1.0, False), (0.0, 0.001, True))
    assert message < 0.02 < program


def test_a_free_device_has_cores_for_its_messages() -> None:
    assert _ends(Device("free", {"default": 1.0}), (0.0, 1.0, False), (0.5, 0.1, True)) == [1.0, 0.6]


@given(st.floats(0, 1e6), st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_a_card_keeps_to_its_rate_but_for_one_burst(burst_bytes: float, seconds: list[float]) -> None:
    s_per_byte = 1e-6
    card = Card(s_per_byte, burst_bytes)
    gone = [card.pass_s(0.0, each) for each in seconds]
    assert gone == sorted(gone)
    assert gone[-1] == pytest.approx(max(0.0, sum(seconds) - burst_bytes * s_per_byte))
