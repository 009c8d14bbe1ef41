"""Ranks: output and end of a program that mpirun started several times: only rank 0 prints, and all end together.

A rank that exits with an error code makes mpirun kill the others and print a banner that hides the error message. So rank
0 releases them first, waits until they have ended, and exits last.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from fogconv.cli.process.collection import collect_as_usual
from fogconv.cluster.transport.mpi.launch import launched
from fogconv.errors import FogconvError

if TYPE_CHECKING:
    from fogconv.cluster.session.session import Session
    from fogconv.cluster.transport.mpi.watchdog import LastWord

GONE_S = 2.0
"""The time that rank 0 waits for the others to end before it exits with an error, in seconds."""


def is_other_rank() -> bool:
    """Whether mpirun started this process as another rank than 0."""
    launch = launched()
    return launch is not None and launch.rank > 0


def has_other_ranks() -> bool:
    launch = launched()
    return launch is not None and launch.rank == 0 and launch.size > 1


def hush() -> None:
    """Print nothing from here on, because rank 0 prints the same errors."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123


@contextmanager
def ranks_released() -> Iterator[None]:
    """If rank 0 fails before it has opened a session, release the ranks that wait for it in MPI's initialisation."""
    try:
        yield
    except Exception:
        if has_other_ranks() and "mpi4py.MPI" not in sys.modules:
            from fogconv.cluster.connect import connect

            with suppress(FogconvError), connect("mpi://") as session:
                closed_quietly(session)
        raise


@contextmanager
def last_word(where: str) -> Iterator[LastWord | None]:
    """Over MPI: the message for the death of a rank, disarmed by Ctrl-C and at the orderly end. Else None."""
    if not where.startswith("mpi://"):
        yield None
        return
    from fogconv.cluster.transport.mpi.watchdog import LastWord

    word = LastWord()
    before = signal.getsignal(signal.SIGINT)

    def interrupted(number: int, frame: FrameType | None) -> None:
        word.silence()
        if callable(before):
            before(number, frame)

    try:
        signal.signal(signal.SIGINT, interrupted)
        yield word
    finally:
        word.silence()
        if signal.getsignal(signal.SIGINT) is interrupted:  # after Ctrl-C it remains ignored
            signal.signal(signal.SIGINT, before)


def closed_quietly(session: Session) -> None:
    """Close a session that failed; over MPI, wait until the ranks on this machine have ended."""
    here = [info.pid for info in session.workers if info.host == os.uname().nodename] if session.scheme == "mpi" else []
    session.close()
    deadline = time.monotonic() + GONE_S
    while any(_alive(pid) for pid in here) and time.monotonic() < deadline:
        time.sleep(0.02)


def end_together(code: int) -> None:
    """Exit with an error code, together with the other ranks; return where there are none."""
    if has_other_ranks() and "mpi4py.MPI" in sys.modules:
        from fogconv.cluster.worker.process import abort_mpi

        abort_mpi(code)


def _alive(pid: int) -> bool:
    import psutil

    with suppress(psutil.Error):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def serves_as_rank(cluster: str | None, threads: int, memory: int | None = None) -> bool:
    """Whether this process is one of mpirun's ranks other than 0, which are no masters. Where no other cluster is named it
    first serves until the master leaves; it never imports torch."""
    launch = launched()
    if launch is None or not launch.rank:
        return False
    if not cluster:
        from fogconv.cluster.worker.process import serve_mpi

        sys.stderr = sys.__stderr__
        collect_as_usual()
        serve_mpi(threads=threads, memory_limit_bytes=memory or 0)
    return True
