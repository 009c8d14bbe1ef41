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

Call = Callable[[], None]

_ANYWHERE = (1 << handoff.MOST_CORES) - 1


class Helper:
    """A thread that runs one call at a time, for one caller at a time; the ``number``-th of ``count``. See
    `fogconv.kernels.handoff` for the protocol."""

    def __init__(self, number: int, count: int) -> None:
        handoff.warm_up()
        self._number, self._count = number, count
        self._control = handoff.control_block()
        self._ticket = 0
        self._call: Call | None = None
        self._error: BaseException | None = None
        self._begin, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._serve, name="fogconv-kernel", daemon=True)
        self._thread.start()
        self._control[handoff.CORES] = _ANYWHERE

    def _serve(self) -> None:
        while True:
            match handoff.serve(self._control, int(self._control[handoff.DONE])):
                case handoff.SLEEP:
                    self._begin.acquire()
                case handoff.WAKE:
                    self._done.release()
                case handoff.PYTHON:
                    try:
                        if self._call is not None:
                            self._call()
                    except BaseException as error:  # raised in the caller by wait()
                        self._error = error
                    if handoff.finished(self._control, int(self._control[handoff.TICKET])):
                        self._done.release()

    def start(self, call: Call, compiled: tuple[int, int, int] | None) -> None:
        """Start a call: the compiled one where ``compiled`` is not None."""
        self._call = call
        self._ticket += 1
        if left := handoff.start(self._control, self._ticket, *(compiled or (0, 0, 0))):
            if left & handoff.SAME_CORE:
                self._keep_off(handoff.core())
            if left & handoff.ASLEEP_NOW:
                self._begin.release()

    def finish(self) -> None:
        """Return when the call is done; do it here where the helper has not begun it."""
        call = self._call
        if call is not None and handoff.take_back(self._control, self._ticket):
            self._call = None
            call()
            return
        if handoff.wait(self._control, self._ticket):
            self._done.acquire()
        error, self._call, self._error = self._error, None, None
        if error is not None:
            raise error

    def _keep_off(self, core: int) -> None:
        """Move the helper to cores that neither the caller nor another of its helpers uses, where there are enough."""
        allowed = os.sched_getaffinity(0)
        cores = helper_cores(allowed, core, self._number, self._count)
        self._control[handoff.CORES] = sum(1 << each for each in cores if each < handoff.MOST_CORES) if cores else _ANYWHERE
        # A container's filter may forbid it, and cores may have been taken away since; the helper then stays where it is.
        with suppress(OSError):
            if self._thread.native_id is not None:
                os.sched_setaffinity(self._thread.native_id, cores or allowed)


def parallel(calls: Sequence[Call]) -> Call:
    """One call that runs all of them in parallel and returns when the last is done.

    While another caller uses the helpers (inferences overlap in a stream), the parts run one after the other.
    """
    first, *others = calls
    if not others:
        return first
    helpers, busy = _helpers(len(others), os.getpid())
    ends = (first, *(helper.finish for helper in helpers))
    jobs = tuple((helper, call, handoff.compiled(call)) for helper, call in zip(helpers, others, strict=True))

    def run() -> None:
        if not busy.acquire(blocking=False):
            for call in calls:
                call()
            return
        try:
            for helper, call, compiled in jobs:
                helper.start(call, compiled)
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
