"""The process of fogconv in a node: the master, or under mpirun any rank.

python -m bench.fog.driver FOLDER JOB        JOB is a Job as JSON
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from bench.fog.job import Job
from fogconv.cluster.transport.mpi.launch import launched
from fogconv.cluster.worker.process import serve_mpi
from fogconv.ir.program import Program


def main(folder: Path, text: str) -> None:
    launch = launched()
    if launch is not None and launch.rank:
        serve_mpi(threads=1)
    # Imported late: a worker does not need torch.
    from bench.fog.master import drive
    from fogconv.cluster.connect import connect
    from fogconv.cluster.executor.executable import Executable

    job = msgspec.json.decode(text, type=Job)

    def local(program: Program, weights: Any, host: Any) -> Executable:
        return Executable(program, weights, threads=1, host=host)

    keys = Path(job.keys) if job.keys else None
    with connect(
        job.cluster, local=local, keys=keys, insecure=keys is None, timeout_s=600.0, connect_timeout_s=60.0
    ) as session:
        drive(job, folder, session)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
