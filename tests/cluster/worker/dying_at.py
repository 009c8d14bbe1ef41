"""A worker that is killed at a certain moment of its life: ``python -m tests.cluster.worker.dying_at MOMENT ADDRESS``."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from fogconv.cli.commands.worker import serve, start_logging
from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.worker.masters import Masters
from fogconv.cluster.worker.program_loader import ProgramLoader
from fogconv.cluster.worker.server import Worker
from fogconv.kernels.maps import bound

MOMENTS: Mapping[str, tuple[Any, str, int]] = {
    "greeted": (Masters, "greet", 1),
    "welcomed": (Worker, "_pong", 1),
    "asked to load": (ProgramLoader, "load", 1),
    "sent weights": (ProgramLoader, "keep", 2),
    "binding": (Executable, "_bind", 2),
    "compiling": (bound, "_compile", 3),
}
"""The function at whose n-th call it is killed. Its clock is asked for as soon as it was welcomed."""


def main() -> None:
    moment, address = sys.argv[1:]
    where, name, number = MOMENTS[moment]
    function, calls = getattr(where, name), 0

    def dying(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    setattr(where, name, dying)
    start_logging(False)
    serve(address, insecure=True)


if __name__ == "__main__":
    main()
