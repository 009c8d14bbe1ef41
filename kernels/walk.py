"""Several bound kernels as one call without Python between them, which keeps the time that each of its steps took.

The calls of a band are short, and there are hundreds of them: by the interpreter each costs a microsecond more, and a helper
thread (see `fogconv.kernels.threads`) would have to wait for the GIL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numba.core import types
from numpy.typing import NDArray

from fogconv.errors import KernelError
from fogconv.kernels import handoff
from fogconv.kernels.codegen.jit import jit, ready
from fogconv.kernels.codegen.native import atomics, system
from fogconv.kernels.maps.bound import SIGNATURE, Bound, bind

HEADER, CALL = 2, 4

TEAM, PART = 3, 3

LOOK, TRUST, ALONE = 0, 1, 2
"""How `run_team` begins: it looks first whether a helper may run on the caller's core; it does not; without the helpers."""

TEAM_SIGNATURE = types.int64(types.int64[::1], types.int64, types.int64, types.int64)


@jit
def run_walk(a):  # type: ignore[no-untyped-def]
    """Do the calls of the array that `bind_walk` makes."""
    calls, steps = a[0], a[1]
    for step in range(steps):
        a[HEADER + step] = 0
    before = system.now()
    for call in range(calls):
        at = HEADER + steps + CALL * call
        handoff.call(a[at + 1], a[at + 2], a[at + 3])
        after = system.now()
        a[HEADER + a[at]] += after - before
        before = after


def bind_walk(calls: Sequence[tuple[int, Bound]], steps: int) -> tuple[Bound, Callable[[], list[int]]]:
    """One call for all of them, each with the number of its step, and another that tells the nanoseconds of each of the
    ``steps`` in the last walk. Raises KernelError for a call that is not a compiled kernel's."""
    numbers = [len(calls), steps, *[0] * steps]
    ready(run_walk, SIGNATURE)
    for step, call in calls:
        found = handoff.compiled(call)
        if found is None or not found[0]:
            raise KernelError(f"a walk consists of compiled kernels; {call!r} of its step {step} is none")
        numbers += [step, *found]
    walk = bind(run_walk, numbers, *(call for _, call in calls))
    [kept] = walk.args  # type: ignore[attr-defined]
    return walk, lambda: [int(time) for time in kept[HEADER : HEADER + steps]]


@jit
def run_team(a, first, until, mode):  # type: ignore[no-untyped-def]
    """Do the steps of the array that `team_numbers` makes, from the ``first`` on, until all are done, the clock is beyond
    ``until``, or a step stops the walk. Returns the step to go on with; ~ that step where a helper has to leave the caller's
    core before it.

    Each helper begins its part of a step as it is handed over. The caller does its own, then those that no helper has
    begun, and waits for the others.
    """
    helpers, steps = a[0], a[1]
    ends = TEAM + 2 * helpers
    parts = ends + steps
    for step in range(first, steps):
        at = parts + PART * (helpers + 1) * step
        if mode == ALONE:
            for part in range(at, at + PART * (helpers + 1), PART):
                if a[part] != 0:
                    handoff.call(a[part], a[part + 1], a[part + 2])
        else:
            if mode == LOOK or step > first:
                for helper in range(helpers):
                    if a[at + PART * (helper + 1)] != 0 and handoff.shares_core(a[TEAM + 2 * helper]):
                        return ~step
            for helper in range(helpers):
                part = at + PART * (helper + 1)
                if a[part] != 0:
                    control = a[TEAM + 2 * helper]
                    ticket, asleep = handoff.begin(control, a[part], a[part + 1], a[part + 2])
                    a[TEAM + 2 * helper + 1] = ticket
                    if asleep:
                        handoff.wake(control + 8 * handoff.ASLEEP)
            handoff.call(a[at], a[at + 1], a[at + 2])
            for helper in range(helpers):
                part = at + PART * (helper + 1)
                if a[part] != 0:
                    control, ticket = a[TEAM + 2 * helper], a[TEAM + 2 * helper + 1]
                    if handoff.take(control, ticket):
                        handoff.call(a[part], a[part + 1], a[part + 2])
                    else:
                        handoff.finish(control, ticket)
        now = system.now()
        a[ends + step] = now
        if now > until or (a[2] != 0 and atomics.read(a[2]) != 0):
            return step + 1
    return steps


def team_numbers(
    controls: Sequence[int], steps: Sequence[Sequence[tuple[int, int, int]]], stop: int = 0
) -> NDArray[np.int64]:
    """The array that `run_team` walks: helpers and steps; the address of an int64 by which a step stops the walk after it,
    with any number but 0 (0: none does); each helper's control block by its address, and its last ticket; the time at which
    each step ended; and for each step the parts of the caller and the helpers, as `handoff.compiled` gives them, a code of 0
    for none."""
    ready(run_team, TEAM_SIGNATURE)
    numbers = [len(controls), len(steps), stop]
    for control in controls:
        numbers += [control, 0]
    numbers += [0] * len(steps)
    for parts in steps:
        for code, at, length in [*parts, *[(0, 0, 0)] * (1 + len(controls) - len(parts))]:
            numbers += [code, at, length]
    return np.array(numbers, np.int64)


def ends_of(team: NDArray[np.int64]) -> NDArray[np.int64]:
    """The times at which the steps of a `team_numbers` ended."""
    first = TEAM + 2 * int(team[0])
    return team[first : first + int(team[1])]
