"""Interrupt: Ctrl-C ends the program within two seconds with exit code 130, whatever it is doing.

Python raises KeyboardInterrupt only between two of its own instructions, and an export or a compilation can hold it up for
many seconds. So the signal wakes a thread, which waits a moment for the orderly end, then closes the session and exits.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT
ORDERLY_S = 0.4
"""The time for KeyboardInterrupt to be raised, in seconds."""
CLOSING_S = 1.0
"""The time for closing after that, in seconds."""


def leave_at_once(number: int, frame: FrameType | None) -> None:
    """The handler before there is anything to close."""
    os._exit(INTERRUPTED)


class Watch:
    """While it exists, Ctrl-C raises KeyboardInterrupt once; if the program still runs after ORDERLY_S, a thread calls
    ``close`` and exits. ``first`` is called at once, and must not wait. Create it on the main thread; call ``done`` when
    there is nothing to close any more.
    """

    def __init__(self, close: Callable[[], None], first: Callable[[], None] = lambda: None) -> None:
        self._close = close
        self._first = first
        self._over = threading.Event()
        self._interrupted = False
        read, write = os.pipe()
        os.set_blocking(write, False)
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        self._wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._wait, args=(read,), name="interrupt", daemon=True)
        self._thread.start()

    def done(self) -> None:
        if self._interrupted:
            return  # the interpreter's own shutdown may block as well
        self._over.set()
        signal.set_wakeup_fd(self._wakeup)
        signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True
        # A terminal and mpirun may both send it; the second must not interrupt the closing.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Raised in a destructor it ends there, and Python would print a traceback; the thread does the rest.
        sys.unraisablehook = _untold_interrupts
        raise KeyboardInterrupt

    def _wait(self, read: int) -> None:
        while signal.SIGINT not in os.read(read, 64):
            pass
        self._first()
        if self._over.wait(ORDERLY_S):
            return
        closing = threading.Thread(target=self._close, daemon=True)
        closing.start()
        closing.join(CLOSING_S)
        sys.stdout.flush()
        os._exit(INTERRUPTED)


def _untold_interrupts(unraisable: sys.UnraisableHookArgs, /) -> None:
    if unraisable.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraisable)
