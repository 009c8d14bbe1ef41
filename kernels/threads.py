"""Running the parts of one kernel on several threads. The compiled code releases the GIL, so Python's threads are enough.

The calling thread does the first part itself. Threads that wait for longer than about 50 µs sleep.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import cache

from fogconv.kernels import handoff

Call = Callable[[], None]


class Helper:
    """A thread that runs one call at a time, for one caller at a time. See `fogconv.kernels.handoff` for the protocol."""

    def __init__(self) -> None:
        handoff.warm_up()
        self._control = handoff.control_block()
        self._ticket = 0
        self._call: Call | None = None
        self._error: BaseException | None = None
        self._begin, self._done = threading.Semaphore(0), threading.Semaphore(0)
        threading.Thread(target=self._serve, name="fogconv-kernel", daemon=True).start()

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
        if handoff.start(self._control, self._ticket, *(compiled or (0, 0, 0))):
            self._begin.release()

    def wait(self) -> None:
        if handoff.wait(self._control, self._ticket):
            self._done.acquire()
        error, self._call, self._error = self._error, None, None
        if error is not None:
            raise error


def parallel(calls: Sequence[Call]) -> Call:
    """One call that runs all of them in parallel and returns when the last is done.

    While another caller uses the helpers (inferences overlap in a stream), the parts run one after the other.
    """
    first, *others = calls
    if not others:
        return first
    helpers, busy = _helpers(len(others), os.getpid())
    jobs = tuple((helper, call, handoff.compiled(call)) for helper, call in zip(helpers, others, strict=True))

    def run() -> None:
        if not busy.acquire(blocking=False):
            for call in calls:
                call()
            return
        try:
            for helper, call, compiled in jobs:
                helper.start(call, compiled)
            try:
                first()
            finally:
                for helper, _, _ in jobs:
                    helper.wait()
        finally:
            busy.release()

    return run


@cache
def _helpers(count: int, process: int) -> tuple[tuple[Helper, ...], threading.Lock]:
    """Threads shared by all calls of the same count, and the lock for their use; a forked child gets its own."""
    return tuple(Helper() for _ in range(count)), threading.Lock()
