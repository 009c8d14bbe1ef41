"""MPI beyond the contract: a whole session under mpirun, a dead rank, what mpirun tells by the environment."""

from __future__ import annotations

import json
import time

import numpy as np
import psutil

from fogconv.cluster.mpi import Launch, launched
from tests.cluster.launch import mpirun


def test_a_session_over_all_ranks() -> None:
    finished = mpirun(4, "-m", "tests.cluster.mpi_program", "session")
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    np.testing.assert_array_equal(result["star"], np.full(16, 3.0 + 6.0))
    np.testing.assert_array_equal(result["ring"], np.ones(16))
    assert result["idle_cpu_s"] < 0.1  # 0.5 s in 10 s
    assert finished.stderr == ""


def test_a_dead_rank_ends_the_job_and_leaves_no_orphans() -> None:
    begin = time.monotonic()
    finished = mpirun(3, "-m", "tests.cluster.mpi_program", "die")
    assert finished.returncode != 0
    assert time.monotonic() - begin < 5.0 + 5.0  # the start-up of three Pythons included
    left = [p for p in psutil.process_iter(["cmdline"]) if "tests.cluster.mpi_program" in (p.info["cmdline"] or [])]
    assert [p.info for p in left if "die" in p.info["cmdline"]] == []


def test_mpirun_is_recognised_without_importing_mpi() -> None:
    assert launched({}) is None
    assert launched({"PMI_RANK": "2", "PMI_SIZE": "5"}) == Launch(2, 5)
    assert launched({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "3"}) == Launch(0, 3)
    assert launched({"PMI_RANK": "two", "PMI_SIZE": "5"}) is None
