"""Service: run a worker as a process, with signal handling."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import NoReturn

from fogconv.cluster.protocol.lifecycle import Stage
from fogconv.cluster.worker.server import Worker
from fogconv.cluster.worker.system import trim
from fogconv.errors import FogconvError

ATTEND_S = 0.2
"""While a kernel runs or compiles, unknown peers and pings are answered at this interval, in seconds."""
TRIM_S = 5.0
"""Between inferences, freed memory is returned to the system at this interval, in seconds."""
STOP_S = 1.5
"""The wait for a running kernel at SIGTERM, in seconds."""

log = logging.getLogger("fogconv.worker")


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(worker: Worker) -> int:
    """Serve in this process until the worker ends or a signal arrives. Returns that signal's number, or 0.

    Kernels run on a thread of their own: Python hands signals to the main thread only, and not before a kernel returns.
    Raises the error that ended the worker, if any.
    """
    # Exclude numba's half a million objects from garbage collection, which could otherwise run in the middle of an
    # inference.
    gc.collect()
    gc.freeze()
    stopping = threading.Event()
    signals: list[int] = []
    failures: list[BaseException] = []

    def live() -> None:
        try:
            worker.serve()
        except BaseException as error:
            failures.append(error)
        finally:
            stopping.set()

    def stop(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    thread = threading.Thread(target=live, name="worker", daemon=True)
    thread.start()
    trimmed = time.monotonic()
    while not stopping.wait(ATTEND_S):
        worker.attend()
        # A worker's limit counts all memory of the process, freed or not; many messages leave much freed memory.
        if worker.life.stage is not Stage.BUSY and time.monotonic() - trimmed > TRIM_S:
            trim()
            trimmed = time.monotonic()
    worker.stop()
    thread.join(STOP_S)
    if failures:
        raise failures[0]
    if thread.is_alive():
        _leave(0)
    return signals[0] if signals else 0


def serve_mpi(*, threads: int = 0, memory_limit_bytes: int = 0) -> NoReturn:
    """Be one of mpirun's ranks other than 0: serve the master until it leaves, then end this process.

    An error ends the whole job with a sentence: ranks can't be lost one by one, unless MPI is tolerant. Then only this
    one ends, with an error where the master was lost, because mpirun's own exit code does not show it.
    """
    from fogconv.cluster.transport.mpi.endpoint import MpiEndpoint
    from fogconv.cluster.transport.mpi.launch import launched, tolerant

    launch = launched()
    share = max(1, cores() // launch.size) if launch is not None and _one_host(launch.size) else cores()
    worker = None
    try:
        endpoint = MpiEndpoint()
        worker = Worker(
            endpoint, threads=threads or share, memory_limit_bytes=memory_limit_bytes, keep_weights=False, once=True
        )
        number = run(worker)
    except BaseException as error:
        rank = launch.rank if launch is not None else 0
        does = "leaves" if tolerant() else "ends the job"
        print(f"fogconv: rank {rank} on {os.uname().nodename} {does}: {error}", file=sys.stderr)
        _leave(error.exit_code if isinstance(error, FogconvError) else 1)
    if number:
        # Not MPI's own shutdown, which would wait for ranks ended by the same signal.
        _leave(0 if tolerant() else 128 + number)
    sys.exit(0 if endpoint.probe(0) else 1)


def abort_mpi(code: int) -> NoReturn:
    """End this rank with an exit code, and the others with it, where MPI still runs.

    After Session.close it does not, and on Ctrl-C mpirun signals every rank itself.
    """
    mpi = sys.modules["mpi4py.MPI"]
    if code != 128 + signal.SIGINT and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.COMM_WORLD.Abort(code)
    _leave(code)


def _one_host(size: int) -> bool:
    """Whether mpirun put all ranks on this host, by its own variables."""
    local = os.environ.get("MPI_LOCALNRANKS") or os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE")
    return local is not None and local.isdigit() and int(local) == size


def _leave(code: int) -> NoReturn:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
