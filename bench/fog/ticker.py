"""Tickers: make the kernel check the nodes' quotas every millisecond, on every core.

A CPU quota is only charged when the kernel checks it, and with one running process per core it does so at its own tick:
every 4 ms at the usual 250 Hz. A node of 1 ms per 10 ms then ran for 4 ms and paused for 36 (measured: runs of 2.5 to 4
ms, pauses of 25 to 68), and its peers waited for a longer period than configured. A real-time process that only wakes up
makes the kernel check: runs of 1 ms, pauses of 9, for 3 % of each core.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

TICK_S = 1e-3
TICKS_BETWEEN_LOOKS = 500


class Tickers:
    """One per core that this process may use, until ``stop`` or the end of this process."""

    def __init__(self) -> None:
        self._running = [
            subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(__file__)), str(core), str(os.getpid())],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for core in sorted(os.sched_getaffinity(0))
        ]

    def stop(self) -> None:
        """Does nothing the second time."""
        for process in self._running:
            process.kill()
        for process in self._running:
            process.wait()
        self._running.clear()


def tick(core: int, parent: int) -> None:
    """Wake up periodically while ``parent`` lives; return at once where real-time priority is not allowed."""
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    sleep, ticks = time.sleep, range(TICKS_BETWEEN_LOOKS)
    while os.getppid() == parent:
        for _ in ticks:
            sleep(TICK_S)


if __name__ == "__main__":
    tick(int(sys.argv[1]), int(sys.argv[2]))
