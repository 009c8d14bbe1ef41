"""Running the parts of one kernel on several threads. The compiled code releases the GIL, so Python's threads are enough.

The calling thread does the first part itself, and every other that no helper has begun by then. Threads that wait for longer
than about 50 µs sleep. A helper keeps off the caller's core: see `fogconv.kernels.handoff`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import cache

from fogconv.kernels import handoff
from fogconv.kernels.maps.bound import Several, address_of
from fogconv.kernels.walk import ALONE, LOOK, TRUST, ends_of, run_team, team_numbers

Call = Callable[[], None]

Parts = Sequence[Call]
"""Of a step: this thread's, then those of helpers."""

NEVER = (1 << 63) - 1
"""A time of `time.perf_counter_ns` that does not come."""

_ANYWHERE = (1 << handoff.MOST_CORES) - 1


class Helper:
    """A thread that runs one call at a time, for one caller at a time; the ``number``-th of ``count``. See
    `fogconv.kernels.handoff` for the protocol."""

    def __init__(self, number: int, count: int) -> None:
        handoff.warm_up()
        self._number, self._count = number, count
        self._control = handoff.control_block()
        self.control = address_of(self._control)
        self._ticket = 0
        self._call: Call | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="fogconv-kernel", daemon=True)
        self._thread.start()
        self._control[handoff.CORES] = _ANYWHERE

    def _serve(self) -> None:
        while True:
            handoff.serve_on(self._control, int(self._control[handoff.DONE]))
            try:
                if self._call is not None:
                    self._call()
            except BaseException as error:  # raised in the caller by finish()
                self._error = error
            handoff.finished(self._control, int(self._control[handoff.TICKET]))

    def start(self, call: Call, compiled: tuple[int, int, int] | None) -> None:
        """Start a call: the compiled one where ``compiled`` is not None."""
        self._call = call
        if self.is_near(handoff.core()):
            self.keep_off(handoff.core())
        self._ticket = handoff.hand_over(self._control, *(compiled or (0, 0, 0)))

    def finish(self) -> None:
        """Return when the call is done; do it here where the helper has not begun it."""
        call = self._call
        if call is not None and handoff.take_back(self._control, self._ticket):
            self._call = None
            call()
            return
        handoff.wait_until_done(self._control, self._ticket)
        error, self._call, self._error = self._error, None, None
        if error is not None:
            raise error

    def is_near(self, core: int) -> bool:
        """Whether it may run on a core."""
        return 0 <= core < handoff.MOST_CORES and bool(self._control[handoff.CORES] >> core & 1)

    def keep_off(self, core: int) -> None:
        """Move the helper to cores that neither the caller nor another of its helpers uses, where there are enough."""
        allowed = os.sched_getaffinity(0)
        cores = helper_cores(allowed, core, self._number, self._count)
        self._control[handoff.CORES] = sum(1 << each for each in cores if each < handoff.MOST_CORES) if cores else _ANYWHERE
        # A container's filter may forbid it, and cores may have been taken away since; the helper then stays where it is.
        with suppress(OSError):
            if self._thread.native_id is not None:
                os.sched_setaffinity(self._thread.native_id, cores or allowed)


class Team:
    """Steps in order, as one call: of each a part for this thread, and some for helpers, all of them compiled. Nothing of
    Python's runs between the steps.

    Helpers are woken for the first step. Woken before, while the input is packed, they looked for work too early: beside
    other processes mobilenet_v2 took 1.0 to 1.4 times as long after a pause, also where they looked ten times as long.
    """

    def __init__(self, steps: Sequence[Parts], stop: int = 0) -> None:
        """``stop``: the address of an int64 by which a step ends the walk after it, with any number but 0."""
        count = max(map(len, steps)) - 1
        self.steps = [tuple(calls) for calls in steps]
        self._helpers, self._busy = _helpers(count, os.getpid())
        parts = [[handoff.compiled(call) or (0, 0, 0) for call in calls] for calls in steps]
        self._numbers = team_numbers([helper.control for helper in self._helpers], parts, stop)

    def __call__(self) -> None:
        self.run(0, NEVER)

    def run(self, step: int, until_ns: int) -> int:
        """Do the steps from one on, until all are done, the clock is beyond ``until_ns``, or one stops the walk. Returns the
        step to go on with. While another caller uses the helpers (inferences overlap in a stream), all parts are done
        here."""
        if not self._busy.acquire(blocking=False):
            return int(run_team(self._numbers, step, until_ns, ALONE))
        try:
            mode = LOOK
            while (found := run_team(self._numbers, step, until_ns, mode)) < 0:
                step, mode, core = ~found, TRUST, handoff.core()
                for helper in self._helpers:
                    if helper.is_near(core):
                        helper.keep_off(core)
            return int(found)
        finally:
            self._busy.release()

    def note_end(self, step: int, at_ns: int) -> None:
        """A step was done by other code, until then."""
        ends_of(self._numbers)[step] = at_ns

    def ends(self) -> list[int]:
        """`time.perf_counter_ns` at the end of each step, the last time that it was done."""
        found: list[int] = ends_of(self._numbers).tolist()
        return found


def compiled_steps(call: Call) -> Sequence[Parts] | None:
    """What a `Team` does for a call; None where some of it is not compiled."""
    if isinstance(call, Team):
        return call.steps
    found = handoff.compiled(call)
    if found is not None:
        return [(call,)] if found[0] else None
    if not isinstance(call, Several):
        return None
    steps: list[Parts] = []
    for each in call.calls:
        more = compiled_steps(each)
        if more is None:
            return None
        steps += more
    return steps


def parallel(calls: Sequence[Call]) -> Call:
    """One call that runs all of them in parallel and returns when the last is done.

    While another caller uses the helpers (inferences overlap in a stream), the parts run one after the other.
    """
    first, *others = calls
    if not others:
        return first
    compiled = [handoff.compiled(call) for call in calls]
    if all(found is not None and found[0] for found in compiled):
        return Team([calls])
    helpers, busy = _helpers(len(others), os.getpid())
    ends = (first, *(helper.finish for helper in helpers))
    jobs = tuple(zip(helpers, others, compiled[1:], strict=True))

    def run() -> None:
        if not busy.acquire(blocking=False):
            for call in calls:
                call()
            return
        try:
            for helper, call, part in jobs:
                helper.start(call, part)
            for number, end in enumerate(ends):
                try:
                    end()
                except BaseException:
                    # No helper may still be at work when the next call begins.
                    for other in ends[number + 1 :]:
                        with suppress(BaseException):
                            other()
                    raise
        finally:
            busy.release()

    return run


@cache
def _helpers(count: int, process: int) -> tuple[tuple[Helper, ...], threading.Lock]:
    """Threads shared by all calls of the same count, and the lock for their use; a forked child gets its own."""
    return tuple(Helper(number, count) for number in range(count)), threading.Lock()


def helper_cores(allowed: Collection[int], caller: int, number: int, count: int) -> frozenset[int]:
    """The cores for the ``number``-th of ``count`` helpers of a caller on one of the allowed cores: those after the
    caller's, dealt out among the helpers. None where a helper would have to share: the system then places it."""
    others = sorted(set(allowed) - {caller}, key=lambda core: (core < caller, core))
    return frozenset(others[number::count]) if len(others) >= count else frozenset()
