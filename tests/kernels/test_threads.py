"""Kernels on several threads: every part is done once, also where several callers come at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogconv.kernels import handoff
from fogconv.kernels.codegen.isa import ISAS
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.codegen.native import atomics
from fogconv.kernels.maps.bound import address_of, bind, sequence
from fogconv.kernels.threads import NEVER, Helper, Team, _helpers, compiled_steps, helper_cores, parallel


@jit
def count(a: Any) -> None:
    a[0] += 1


@jit
def add_up(a: Any) -> None:
    """Its own number, a[1], becomes one more than the sum of the numbers at a[2:]."""
    total = 1
    for at in a[2:]:
        total += atomics.read(at)
    a[1] = total % 1_000_003


def chain(steps: int, parts: int) -> list[list[partial[None]]]:
    """Steps of which each part needs all parts of the step before, and the first ones all of the last."""
    found = [[bind(add_up, [0, 1, *[0] * parts]) for _ in range(parts)] for _ in range(steps)]
    for before, now in zip([found[-1], *found], found, strict=False):
        for call in now:
            call.args[0][2:] = [address_of(each.args[0]) + 8 for each in before]  # type: ignore[attr-defined]
    return found  # type: ignore[return-value]


def numbers(steps: list[list[partial[None]]]) -> list[int]:
    return [int(call.args[0][1]) for parts in steps for call in parts]


def counters(number: int) -> list[partial[None]]:
    """Compiled calls; each counts how often it ran in the first of its numbers."""
    calls = [bind(count, [0]) for _ in range(number)]
    assert all(handoff.compiled(call) for call in calls)
    return calls  # type: ignore[return-value]


def test_compiled_parts_run_once_whether_helpers_are_awake_or_asleep() -> None:
    calls = counters(3)
    run = parallel(calls)
    for round_ in range(1, 401):
        run()
        assert [int(call.args[0][0]) for call in calls] == [round_] * 3
        if round_ % 20 == 0:
            time.sleep(0.002)  # the helpers give up looking, and sleep


def checked(team: Team, together: list[list[partial[None]]], rounds: int) -> None:
    """Run a team of a chain, and compare its numbers with those of an equal chain, part after part."""
    once = chain(len(together), len(together[0]))
    for call in (call for parts in together for call in parts):
        call.args[0][1] = 1
    for round_ in range(rounds):
        for parts in once:
            for call in parts:
                call()
        team()
        assert numbers(together) == numbers(once)
        if round_ % 30 == 0:
            time.sleep(0.002)  # the helpers give up looking, and sleep


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_no_part_of_a_step_begins_before_all_of_the_step_before_are_done(threads: int) -> None:
    steps = chain(7, threads)
    team = Team(steps)
    checked(team, steps, 300)
    assert team.ends() == sorted(team.ends()) and len(team.ends()) == 7


def asleep(helper: Helper) -> bool:
    """Whether it sleeps, in the end."""
    until = time.monotonic() + 60.0
    while time.monotonic() < until and helper._control[handoff.ASLEEP] != 1:
        time.sleep(0.001)
    return bool(helper._control[handoff.ASLEEP] == 1)


def test_a_helper_without_work_sleeps_and_is_woken_for_its_next_part() -> None:
    steps = chain(7, 2)
    team = Team(steps)
    (helper,), _ = _helpers(1, os.getpid())
    for _ in range(10):
        assert asleep(helper)
        checked(team, steps, 1)


def test_steps_may_have_fewer_parts_than_there_are_threads() -> None:
    calls = counters(6)
    team = Team([calls[:3], calls[3:4], calls[4:]])
    for round_ in range(1, 201):
        team()
        assert [int(call.args[0][0]) for call in calls] == [round_] * 6


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: helper and caller share it anyway")
def test_a_helper_that_shares_its_core_with_the_caller_delays_it_but_does_no_harm() -> None:
    """As one does that another process keeps from its core: it begins late, or is interrupted in its part."""
    steps = chain(7, 2)
    team = Team(steps)
    (helper,), _ = _helpers(1, os.getpid())
    tid, allowed = helper._thread.native_id, os.sched_getaffinity(0)
    assert tid is not None
    try:
        with mock.patch.object(Helper, "keep_off"):
            os.sched_setaffinity(tid, {min(allowed)})
            os.sched_setaffinity(0, {min(allowed)})
            checked(team, steps, 60)
    finally:
        os.sched_setaffinity(0, allowed)
        os.sched_setaffinity(tid, allowed)


def test_a_team_stops_after_the_step_in_which_its_time_is_over_and_goes_on_from_there() -> None:
    calls = counters(6)
    team = Team([calls[:2], calls[2:4], calls[4:]])
    assert team.run(0, 0) == 1
    assert [int(call.args[0][0]) for call in calls] == [1, 1, 0, 0, 0, 0]
    assert team.run(1, NEVER) == 3
    assert [int(call.args[0][0]) for call in calls] == [1] * 6


def test_a_team_does_all_itself_while_another_caller_has_the_helpers() -> None:
    steps = chain(5, 2)
    team = Team(steps)
    (helper,), busy = _helpers(1, os.getpid())
    with busy:
        before = int(helper._control[handoff.TICKET])
        checked(team, steps, 10)
        assert int(helper._control[handoff.TICKET]) == before, "nothing was handed over"


def test_what_consists_of_compiled_calls_is_steps_of_a_team() -> None:
    a, b, c = counters(3)
    assert compiled_steps(a) == [(a,)]
    assert compiled_steps(parallel([a, b])) == [(a, b)]
    assert compiled_steps(sequence([c, parallel([a, b])])) == [(c,), (a, b)]
    assert compiled_steps(lambda: None) is None
    assert compiled_steps(sequence([a, lambda: None])) is None
    assert compiled_steps(parallel([a, lambda: None])) is None


def test_compiled_and_python_parts_take_turns() -> None:
    calls, done = counters(2), []
    compiled, plain = parallel(calls), parallel([lambda: None, lambda: done.append(1)])
    for _ in range(200):
        compiled()
        plain()
    assert len(done) == 200
    assert [int(call.args[0][0]) for call in calls] == [200, 200]


def test_callers_of_compiled_parts_do_not_lose_any() -> None:
    def caller(calls: list[partial[None]]) -> None:
        run = parallel(calls)
        for _ in range(2000):
            run()

    sets = [counters(2) for _ in range(4)]
    threads = [threading.Thread(target=caller, args=(calls,)) for calls in sets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120.0)
    assert [int(call.args[0][0]) for calls in sets for call in calls] == [2000] * 8


def test_all_parts_are_done_once_before_it_returns() -> None:
    done: list[int] = []
    run = parallel([lambda number=number: done.append(number) for number in range(3)])  # type: ignore[misc]
    for _ in range(100):
        done.clear()
        run()
        assert sorted(done) == [0, 1, 2]


def test_callers_on_several_threads_do_not_take_each_others_parts() -> None:
    wrong: list[str] = []

    def caller(name: str) -> None:
        done: list[int] = []
        run = parallel([lambda number=number: done.append(number) for number in range(2)])  # type: ignore[misc]
        for _ in range(2000):
            done.clear()
            run()
            if sorted(done) != [0, 1]:
                wrong.append(f"{name}: {done}")

    threads = [threading.Thread(target=caller, args=(f"caller {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120.0)
    assert not wrong


def test_an_error_in_any_part_comes_out_and_the_helpers_stay_usable() -> None:
    def fail() -> None:
        raise ValueError("a part failed")

    for calls in ([fail, lambda: None], [lambda: None, fail]):
        with pytest.raises(ValueError, match="a part failed"):
            parallel(calls)()
    done: list[int] = []
    parallel([lambda: done.append(0), lambda: done.append(1)])()
    assert sorted(done) == [0, 1]


def test_a_call_is_done_by_the_side_that_takes_it() -> None:
    """No helper serves here: the caller finds its call untouched, and a helper that wakes too late finds nothing to do."""
    handoff.warm_up()
    control = handoff.control_block()
    (call,) = counters(1)
    compiled = handoff.compiled(call)
    assert compiled is not None
    handoff.start(control, 1, *compiled)
    assert handoff.take_back(control, 1)
    assert not handoff.take_back(control, 1), "it is taken once"
    assert handoff.serve(control, 0) == handoff.SLEEP, "nothing was left to do"
    assert int(call.args[0][0]) == 0 and int(control[handoff.DONE]) == 0
    assert handoff.start(control, 2, *compiled) & handoff.ASLEEP_NOW
    assert handoff.serve(control, 1) == handoff.SLEEP
    assert int(call.args[0][0]) == 1 and int(control[handoff.DONE]) == 2
    assert not handoff.take_back(control, 2), "it is done"
    assert not handoff.wait(control, 2)


def test_an_error_in_one_part_leaves_no_other_at_work() -> None:
    done: list[int] = []

    def fail() -> None:
        raise ValueError("a part failed")

    def slow() -> None:
        time.sleep(0.02)
        done.append(1)

    for calls in ([fail, slow, slow], [lambda: None, fail, slow], [lambda: None, slow, fail], [fail, fail, slow]):
        done.clear()
        with pytest.raises(ValueError, match="a part failed"):
            parallel(calls)()
        assert len(done) == calls.count(slow)


def test_an_error_in_a_part_that_was_taken_back_comes_out() -> None:
    """A helper that sleeps has not begun by the time the caller has done its own, empty part."""

    def fail() -> None:
        raise ValueError("a part failed")

    for _ in range(20):
        with pytest.raises(ValueError, match="a part failed"):
            parallel([lambda: None, fail])()
        time.sleep(0.001)


@given(st.sets(st.integers(0, 80), min_size=1, max_size=12), st.data())
def test_helpers_keep_off_the_callers_core_and_each_others(allowed: set[int], data: st.DataObject) -> None:
    caller = data.draw(st.sampled_from(sorted(allowed)))
    count = data.draw(st.integers(1, 12))
    found = [helper_cores(allowed, caller, number, count) for number in range(count)]
    if count >= len(allowed):
        assert not any(found), "too few cores: the system places them"
        return
    assert all(found) and sum(map(len, found)) == len(allowed) - 1, "no core is left out, and none is used twice"
    assert frozenset().union(*found) == allowed - {caller}


def _apart(run: Callable[[], None], tid: int) -> bool:
    """Whether the caller's core after a call is none of the helper's."""
    run()
    return handoff.core() not in os.sched_getaffinity(tid)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: there is no other to keep to")
def test_a_helper_leaves_the_core_to_which_its_caller_moves() -> None:
    run = parallel(counters(2))
    (helper,), _ = _helpers(1, os.getpid())
    tid = helper._thread.native_id
    assert tid is not None
    allowed = os.sched_getaffinity(0)
    try:
        for core in sorted(allowed):
            # While the caller may use one core only, a helper has no other; from then on it has.
            os.sched_setaffinity(0, {core})
            run()
            os.sched_setaffinity(0, allowed)
            # The system may move the caller between a call and the look: some calls find it where it was.
            assert any(_apart(run, tid) for _ in range(1000))
    finally:
        os.sched_setaffinity(0, allowed)


TWO_THREADS = """
import numpy as np
from fogconv.ir.geometry import ConvSpec
from fogconv.kernels.conv.conv import prepare_conv2d
from fogconv.kernels.maps.blocked import Blocked
from fogconv.kernels.maps.pack import pack, unpack

random = np.random.default_rng(0)
spec = ConvSpec(16, 64, 6, 6, (1, 1))
x, weight = (random.standard_normal(shape, np.float32) for shape in ((1, 16, 6, 6), spec.weight_shape))
results = []
for threads in (1, 2):
    prepared = prepare_conv2d(spec, weight, activation="relu", threads=threads)
    source, out = prepared.empty_input(), Blocked.empty(*spec.output_shape)
    pack(x, out=source)
    prepared.run(source, out)
    results.append(unpack(out))
wanted = np.maximum(np.einsum("fc,nchw->nfhw", weight[:, :, 0, 0].astype(float), x.astype(float)), 0)
assert np.array_equal(*results)
assert np.abs(results[0] - wanted).max() <= 5e-6 * np.abs(wanted).max()
"""


@pytest.mark.parametrize("name", ISAS)
def test_two_threads_run_whatever_instruction_set_is_asked_for(name: str) -> None:
    # A process of its own: an instruction that this CPU does not have makes LLVM abort.
    environment = {**os.environ, "FOGCONV_ISA": name}
    done = subprocess.run([sys.executable, "-c", TWO_THREADS], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
