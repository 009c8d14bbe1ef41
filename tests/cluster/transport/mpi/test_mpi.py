"""MPI beyond the contract: a whole session under mpirun, a dead rank, what mpirun tells by the environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sysconfig
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from fogconv.cluster.transport.mpi.launch import Launch, launched, tolerant
from fogconv.cluster.transport.mpi.watchdog import SENTENCE, TOLERANT_SENTENCE
from fogconv.ir.precision.elements import HALVES, Half
from fogconv.planning.schemes import ONE_FRAME, STREAMS
from tests.cluster.cluster_of import eventually
from tests.cluster.launch import ROOT, environment, mpich, mpirun, open_mpi, process, ulfm

pytestmark = pytest.mark.alone

PROGRAM = ("-m", "tests.cluster.transport.mpi.mpi_program")


def running(pid: int) -> bool:
    with suppress(psutil.Error):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def test_a_session_over_all_ranks() -> None:
    finished = mpirun(4, "-m", "tests.cluster.transport.mpi.mpi_program", "session")
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    np.testing.assert_array_equal(result["star"], np.full(16, 3.0 + 6.0))
    np.testing.assert_array_equal(result["ring"], np.ones(16))
    assert result["idle_cpu_s"] < 0.1  # 0.5 s in 10 s
    assert finished.stderr == ""


@pytest.mark.parametrize("half", HALVES)
def test_a_net_in_16_bits_gives_one_devices_answer_within_rounding(half: Half) -> None:
    finished = mpirun(3, *PROGRAM, "halves", half, timeout_s=240.0)
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    assert max(result["off"]) < 4 * {"fp16": 2.0**-11, "bf16": 2.0**-8}[half]
    assert half in result["wires"] and (result["ranks"], result["events"]) == ([0, 1, 2], [])


@pytest.mark.parametrize("victim", [0, 2])
@pytest.mark.parametrize("launcher", [mpich, open_mpi])
def test_a_dead_rank_ends_the_job_with_one_sentence_and_leaves_no_orphans(
    launcher: Callable[[int], list[str]], victim: int
) -> None:
    with process(*launcher(4), *PROGRAM, "linger") as job:
        assert job.stdout is not None
        pids = json.loads(job.stdout.readline())["pids"]
        os.kill(pids[victim], signal.SIGKILL)
        _, told = job.communicate(timeout=60.0)
        assert job.returncode != 0
        assert [line for line in told.splitlines() if line.startswith("fogconv: ")] == [SENTENCE]
        eventually(lambda: not any(running(pid) for pid in pids))


def test_the_last_word_is_read_in_a_file_too(tmp_path: Path) -> None:
    """mpirun would write its own message over what is appended to the file before."""
    told = tmp_path / "told"
    with told.open("w") as file:
        job = subprocess.Popen([*mpich(3), *PROGRAM, "linger"], cwd=ROOT, env=environment(), stdout=file, stderr=file)
        try:
            eventually(lambda: told.read_text().endswith("}\n"), 60.0)
            os.kill(json.loads(told.read_text().splitlines()[-1])["pids"][1], signal.SIGKILL)
            job.wait(60.0)
        finally:
            job.kill()
            job.wait()
    # mpirun has ended, but a file tells nobody that something is still to come.
    eventually(lambda: told.read_text().endswith(f"{SENTENCE}\n"), 10.0)


def test_an_orderly_end_needs_no_last_word() -> None:
    finished = mpirun(2, *PROGRAM, "session")
    assert "died" not in finished.stderr


@pytest.mark.parametrize("launcher", [open_mpi, ulfm])
def test_open_mpi_keeps_the_contract(launcher: Callable[[int], list[str]]) -> None:
    finished = mpirun(2, *PROGRAM, "contract", launcher=launcher)
    assert finished.returncode == 0, finished.stderr
    assert set(json.loads(finished.stdout).values()) == {""}


@pytest.mark.parametrize("scheme", [*ONE_FRAME, *STREAMS])
def test_with_ulfm_any_rank_but_the_first_may_be_killed(scheme: str) -> None:
    finished = mpirun(4, *PROGRAM, "survive", scheme, launcher=ulfm, timeout_s=240.0)
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    # With one rank less at a time to the master alone, and all answers right: those that are wrong end the program.
    assert result["crews"] == [[0, 1, 2, 3], [0, 2, 3], [0, 3], [0]]
    # A kill may come as one inference ends; then the loss is one between inferences.
    for rank, event in zip((1, 2, 3), result["events"], strict=True):
        assert event.startswith((f"worker {rank} at mpi://{rank} ", f"worker {rank} was lost between inferences;")), event


def test_with_ulfm_a_rank_killed_in_a_stream_is_told_and_no_frame_is_wrong(tmp_path: Path) -> None:
    """The program as a whole. Open MPI's environment has no torch; rank 0 takes that of the tests' own."""
    dying = ("-m", "tests.cluster.worker.dying", "10", str(tmp_path / "dead"), "main_run", sysconfig.get_path("purelib"))
    model = ("squeezenet1_1", "--weights", "random", "--size", "64", "--threshold", "0", "--no-adapt")
    stream = ("--repeat", "1", "--stream", "20", "--compare", "--json")
    finished = mpirun(4, *dying, *model, *stream, launcher=ulfm, timeout_s=240.0)
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    assert result["workers"] == 2
    assert result["max_abs_error"] <= 1e-4 * result["max_abs_reference"]
    assert len(result["events"]) == 1 and " at mpi://" in result["events"][0], result["events"]


def test_with_ulfm_ranks_may_be_killed_while_large_messages_are_under_way() -> None:
    finished = mpirun(4, *PROGRAM, "flood", launcher=ulfm, timeout_s=120.0)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout) == {"lost": [1, 2], "right": True}


def test_with_ulfm_the_end_of_the_first_rank_is_the_end() -> None:
    with process(*ulfm(3), *PROGRAM, "linger") as job:
        assert job.stdout is not None
        pids = json.loads(job.stdout.readline())["pids"]
        os.kill(pids[0], signal.SIGKILL)
        _, told = job.communicate(timeout=60.0)
        assert job.returncode == 1
        assert TOLERANT_SENTENCE in told
        eventually(lambda: not any(running(pid) for pid in pids))


def test_tolerance_is_recognised_without_importing_mpi() -> None:
    assert tolerant({"OMPI_MCA_mpi_ft_enable": "1"})
    assert not tolerant({"OMPI_MCA_mpi_ft_enable": "0"})
    assert not tolerant({})


def test_mpirun_is_recognised_without_importing_mpi() -> None:
    assert launched({}) is None
    assert launched({"PMI_RANK": "2", "PMI_SIZE": "5"}) == Launch(2, 5)
    assert launched({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "3"}) == Launch(0, 3)
    assert launched({"PMI_RANK": "two", "PMI_SIZE": "5"}) is None
