"""ProgramLoader: receives programs and their weights, checks them against the memory limit, and builds complete ones.

It yields the answers to the master, each as soon as it is due.
"""

from __future__ import annotations

import errno
import gc
import logging
import math
import time
from collections.abc import Callable, Iterator

import msgspec

from fogconv.cluster.executor.interface import Build, Runnable, Shares
from fogconv.cluster.executor.mailbox import RunAborted
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.worker.master_session import Loading, MasterSession
from fogconv.cluster.worker.program_check import MOST_PROGRAM_BYTES, check_program
from fogconv.cluster.worker.system import machine_bytes, process_bytes
from fogconv.cluster.worker.weight_cache import WeightStore
from fogconv.errors import FogconvError, WireError, WorkerFailedError, WorkerMemoryError
from fogconv.ir import program as ir
from fogconv.ir.arrays import Array

log = logging.getLogger("fogconv.worker")


class ProgramLoader:
    """``adopt`` is called with each program that is ready, before the answer to the master."""

    def __init__(
        self,
        build: Build,
        *,
        threads: int,
        memory_limit_bytes: int,
        keep_weights: bool,
        adopt: Callable[[MasterSession, Loading, Runnable], None],
    ) -> None:
        self.store = WeightStore()
        self.build = build
        self._threads = threads
        self._memory_limit_bytes = memory_limit_bytes
        self._keep_weights = keep_weights
        self._adopt = adopt

    @property
    def memory_bytes(self) -> int:
        """What programs and measurements may need: the limit of this worker, or all that the machine has."""
        return self._memory_limit_bytes or machine_bytes()

    def load(
        self, session: MasterSession, task: m.Load, payload: Frame, proceed: Callable[[], None]
    ) -> Iterator[m.AnyMessage]:
        """Handle a program: report which of its weights are missing. Raises WireError, WorkerMemoryError.

        ``proceed`` is called before each step is bound; it raises RunAborted when the program is no longer wanted.
        """
        if len(payload) > MOST_PROGRAM_BYTES:
            raise WireError(f"a program of {len(payload)} bytes is over the limit of {MOST_PROGRAM_BYTES}")
        try:
            program = ir.decode(bytes(payload))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise WireError(f"a malformed program: {error}") from error
        check_program(program, self.memory_bytes)
        if program.rank != session.hello.rank:
            raise WireError(f"a program for rank {program.rank} came; this worker is rank {session.hello.rank}")
        missing = {key for key in program.weights if key not in self.store}
        self._check_memory(program, missing)
        session.loading.append(Loading(task.request, task.program, program, missing))
        yield m.Missing(task.request, tuple(sorted(missing)))
        yield from self._build_complete(session, proceed)

    def keep(
        self, session: MasterSession, task: m.Weight, payload: Frame, proceed: Callable[[], None]
    ) -> Iterator[m.AnyMessage]:
        """Handle received weights. Raises WireError where no program waits for them."""
        if not any(task.key in loading.missing for loading in session.loading) and task.key not in self.store:
            raise WireError(f"received weights {task.key}, which no program waits for")
        try:
            self.store.put(task.key, task.shape, payload)
        except WireError as error:
            for loading in [loading for loading in session.loading if task.key in loading.missing]:
                session.loading.remove(loading)
                yield failed(loading.request, 0, error)
            return
        yield m.Stored(task.key)
        for loading in session.loading:
            loading.missing.discard(task.key)
        yield from self._build_complete(session, proceed)

    def _build_complete(self, session: MasterSession, proceed: Callable[[], None]) -> Iterator[m.AnyMessage]:
        for loading in [loading for loading in session.loading if not loading.missing]:
            session.loading.remove(loading)
            begin = time.perf_counter()
            program = loading.program
            executable = self._bound(program, proceed)
            if isinstance(executable, FogconvError):
                gc.collect()  # what was bound so far hangs together in circles, and the next program may need its memory
                yield failed(loading.request, 0, executable)
                continue
            if program.shares and isinstance(executable, Shares):
                executable.arrays = session.arrays.setdefault(program.shares, executable.arrays)
            self._adopt(session, loading, executable)
            self._trim(session)
            seconds = time.perf_counter() - begin
            log.info("program %d is ready after %.2f s, %.1f MB", loading.number, seconds, executable.memory_bytes / 1e6)
            yield m.Loaded(loading.request, loading.number, executable.memory_bytes, process_bytes(), seconds)

    def _bound(self, program: ir.Program, proceed: Callable[[], None]) -> Runnable | FogconvError:
        """The program's executable, or why there is none: the master waits for an answer to its load, not to the weights
        that completed it. Raises RunAborted."""
        try:
            return self.build(program, self._weights(program), threads=self._threads, proceed=proceed)
        except RunAborted:
            raise
        except FogconvError as error:
            return error.with_traceback(None)
        except Exception as error:
            return failure_of(error, "a program can't be bound")

    def _weights(self, program: ir.Program) -> dict[str, Array]:
        """Raises WorkerMemoryError for weights that are gone again, WireError for those of another shape than it says."""
        gone = [key for key in program.weights if key not in self.store]
        if gone:
            raise WorkerMemoryError(f"{len(gone)} of its weights had to make room for another program's")
        weights = {key: self.store[key] for key in program.weights}
        for key, shape in program.weights.items():
            if weights[key].shape != shape:
                raise WireError(f"a malformed program: weights {key} are {weights[key].shape}, not {shape}")
        return weights

    def _check_memory(self, program: ir.Program, missing: set[str]) -> None:
        """Raise WorkerMemoryError where the program needs more memory than the limit, before any weight is sent.

        Weights count twice, as received and as packed by the kernels; weights that no program needs count as free.
        """
        if not self._memory_limit_bytes:
            return
        shard = sum(4 * math.prod(shape) for shape in program.weights.values())
        arriving = sum(4 * math.prod(program.weights[key]) for key in missing)
        buffers = buffer_bytes(program)
        free = self._memory_limit_bytes - process_bytes()
        needed = shard + arriving + buffers
        if needed > free:
            free += self.store.evict(needed - free, keep=program.weights)
        if needed > free:
            raise WorkerMemoryError(
                f"the shard needs {needed / 1e6:.0f} MB ({arriving / 1e6:.0f} MB of weights to come, "
                f"{shard / 1e6:.0f} MB packed, {buffers / 1e6:.0f} MB of maps), but {max(0, free) / 1e6:.0f} MB are left of "
                f"this worker's limit of {self._memory_limit_bytes / 1e6:.0f} MB: give it less work, or raise --memory"
            )

    def _trim(self, session: MasterSession) -> None:
        """After the kernels packed their weights, keep the plain ones only where there is room."""
        waiting = {key for loading in session.loading for key in loading.program.weights}
        if not self._keep_weights:
            self.store.evict(self.store.bytes, keep=waiting)
        elif self._memory_limit_bytes:
            self.store.evict(process_bytes() - self._memory_limit_bytes, keep=waiting)


def failure_of(error: Exception, what: str) -> FogconvError:
    """The error reported to the master for an exception. The master can plan around a lack of memory; anything else is a
    bug."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return WorkerMemoryError(f"{what}: out of memory {error}".rstrip())
    if "out of memory" in str(error).lower() or "cannot allocate memory" in str(error).lower():
        return WorkerMemoryError(f"{what}: {error}")
    log.exception("%s", what)
    return WorkerFailedError(f"{type(error).__name__}: {error}")


def failed(request: int, run: int, error: FogconvError) -> m.Failed:
    """The answer to a failed request or run."""
    log.error("request %d, run %d: %s", request, run, error)
    return m.Failed(request, run, type(error).__name__, str(error)[:4000])


def buffer_bytes(program: ir.Program) -> int:
    """Bytes of a program's buffers in the blocked layout, if none shares memory with another, and of its plain arrays."""
    arrays = [math.prod(step.shape) for step in program.steps if isinstance(step, ir.ArrayRecv)]
    for step in program.steps:
        if isinstance(step, ir.ConvForward | ir.ConvGradInput | ir.ConvGradWeight):
            # Blocked maps in and out, and the plain result.
            arrays.append(step.spec.input_elements + step.spec.output_elements + step.spec.weight_elements)
            arrays.append(max(step.spec.input_elements, step.spec.output_elements))
    plain = 4 * sum(arrays)
    total = 0
    for buffer in program.buffers:
        channels, rows, columns = buffer.region.shape
        top, bottom, left, right = buffer.margin
        total += -(-channels // 16) * 16 * (top + rows + bottom) * (left + columns + right)
    return plain + 4 * program.batch * total
