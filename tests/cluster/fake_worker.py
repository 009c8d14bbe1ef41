"""A worker process without kernels: ``python -m tests.cluster.fake_worker BIND``."""

from __future__ import annotations

import sys

import fogconv.cluster.worker.server
from fogconv.cli.commands.worker import serve, start_logging
from tests.cluster.programs import FakeExecutable

if __name__ == "__main__":
    fogconv.cluster.worker.server.executor = lambda: FakeExecutable  # type: ignore[assignment]
    start_logging(False)
    serve(sys.argv[1], insecure=True)
