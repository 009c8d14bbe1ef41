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

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogconv.kernels import handoff
from fogconv.kernels.codegen.isa import ISAS
from fogconv.kernels.codegen.jit import jit
from fogconv.kernels.maps.bound import bind
from fogconv.kernels.threads import _helpers, helper_cores, parallel


@jit
def count(a: Any) -> None:
    a[0] += 1


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
