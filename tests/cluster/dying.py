"""A program whose worker is killed in the middle of a run: ``python -m tests.cluster.dying RUNS RANK ENTRY SITE ARGS…``.

It is killed at its run number RUNS, under mpirun only as rank RANK. ENTRY is a function of fogconv.cli.app; SITE is a folder
of packages that come after this environment's own, such as torch for a master whose environment has none.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from fogconv.cli import app
from fogconv.cluster.mpi import launched
from fogconv.cluster.worker import Worker


def main() -> None:
    runs, rank, entry, site, *arguments = sys.argv[1:]
    sys.path.append(site)
    sys.argv[1:] = arguments
    launch = launched()
    if launch is None or launch.rank == int(rank):
        _die_in_run(int(runs))
    getattr(app, entry)()


def _die_in_run(last: int) -> None:
    run, count = Worker._run, 0

    def counted(self: Worker, *task: Any) -> None:
        nonlocal count
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
        run(self, *task)

    Worker._run = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
