"""WakePipe: a pipe among the descriptors that a thread waits for, by which other threads wake it."""

from __future__ import annotations

import contextlib
import os


class WakePipe:
    """``fd`` becomes readable by `write`, until `drain`."""

    def __init__(self) -> None:
        self._ends: tuple[int, ...] = os.pipe()
        self.fd, self._write = self._ends
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write, False)

    def write(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if self._ends:
                os.write(self._write, b"!")

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)

    def close(self) -> None:
        ends, self._ends = self._ends, ()
        for fd in ends:
            os.close(fd)
