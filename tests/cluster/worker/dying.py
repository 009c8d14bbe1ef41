"""A program whose worker is killed in the middle of a run: ``python -m tests.cluster.worker.dying RUNS MARK ENTRY SITE
ARGS…``.

The first worker that comes to its run number RUNS makes the file MARK and is killed. ENTRY is a function of fogconv.cli.app;
SITE is a folder of packages that come after this environment's own, such as torch for a master whose environment has none.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from fogconv.cli import app
from fogconv.cluster.worker.server import Worker


def main() -> None:
    runs, mark, entry, site, *arguments = sys.argv[1:]
    sys.path.append(site)
    sys.argv[1:] = arguments
    run, count = Worker._run, 0

    def counted(self: Worker, *task: Any) -> None:
        nonlocal count
        count += 1
        if count == int(runs):
            try:
                Path(mark).touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        run(self, *task)

    Worker._run = counted  # type: ignore[method-assign]
    getattr(app, entry)()


if __name__ == "__main__":
    main()
