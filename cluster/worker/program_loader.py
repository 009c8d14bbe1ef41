"""ProgramLoader: receives programs and their weights, checks them against the memory limit, and builds complete ones.

It yields the answers to the master, each as soon as it is due.
"""

from __future__ import annotations

import errno
import gc
import logging
import sys
import time
from collections.abc import Callable, Collection, Iterator
from weakref import WeakKeyDictionary

import msgspec

from fogconv.cluster.compilers.helpers import Helpers
from fogconv.cluster.executor.interface import Build, OwnKernels, Runnable, Shares
from fogconv.cluster.executor.mailbox import RunAborted
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.worker.checks.limits import MOST_PROGRAM_BYTES
from fogconv.cluster.worker.checks.program_check import check_program
from fogconv.cluster.worker.master_session import Loading, MasterSession
from fogconv.cluster.worker.system import machine_bytes, process_bytes, trim
from fogconv.cluster.worker.weight_cache import Lent, WeightStore
from fogconv.errors import FogconvError, SwapError, WireError, WorkerFailedError, WorkerMemoryError
from fogconv.ir.memory.algorithm import Choose
from fogconv.ir.memory.footprint import MARGIN, PROCESS_BYTES, Footprint, Packing, footprint, packings, room
from fogconv.ir.program import Program, decode
from fogconv.storage.swap_file import SwapFolder

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
        swap: SwapFolder | None = None,
        helpers: int = 0,
        adopt: Callable[[MasterSession, Loading, Runnable], None],
    ) -> None:
        self.store = WeightStore(swap)
        self.build = build
        self._threads = threads
        self._memory_limit_bytes = memory_limit_bytes
        self._private: WeakKeyDictionary[Runnable, int] = WeakKeyDictionary()
        """Bytes of each loaded program beside its weights."""
        self._keep_weights = keep_weights
        self._helpers = helpers
        self._adopt = adopt

    @property
    def memory_bytes(self) -> int:
        """What programs and measurements may need: the limit of this worker, or all that the machine has."""
        return self._memory_limit_bytes or machine_bytes()

    def load(
        self, session: MasterSession, task: m.Load, payload: Frame, proceed: Callable[[], None]
    ) -> Iterator[m.AnyMessage]:
        """Handle a program: report which of its weights are missing. Raises WireError, WorkerMemoryError, SwapError.

        ``proceed`` is called before each step is bound; it raises RunAborted when the program is no longer wanted.
        """
        if len(payload) > MOST_PROGRAM_BYTES:
            raise WireError(f"a program of {len(payload)} bytes is over the limit of {MOST_PROGRAM_BYTES}")
        try:
            program = decode(bytes(payload))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise WireError(f"a malformed program: {error}") from error
        check_program(program, self.memory_bytes)
        if program.rank != session.hello.rank:
            raise WireError(f"a program for rank {program.rank} came; this worker is rank {session.hello.rank}")
        missing = self.store.missing(program.weights, self._packings(program))
        self._check_memory(program, missing)
        if program.swapped:
            self.store.swap.require(self._footprint(program).disk)
        helpers = Helpers(program, self._threads, self._helpers)
        session.loading.append(Loading(task.request, task.program, program, missing, helpers, task.runs))
        helpers.start_ahead(missing)
        yield m.Missing(task.request, tuple(sorted(missing)))
        yield from self._build_complete(session, proceed)

    def keep(
        self, session: MasterSession, task: m.Weight, payload: Frame, proceed: Callable[[], None]
    ) -> Iterator[m.AnyMessage]:
        """Handle received weights. Raises WireError where no program waits for them."""
        if not any(task.key in loading.missing for loading in session.loading) and not self.store.has(task.key):
            raise WireError(f"received weights {task.key}, which no program waits for")
        waiting = [loading for loading in session.loading if task.key in loading.missing]
        try:
            swap = any(task.key in loading.program.swapped for loading in waiting)
            self.store.put(task.key, task.shape, payload, swap=swap, dtype=task.dtype)
        except (WireError, SwapError) as error:
            for loading in waiting:
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
            with loading.helpers.beside():
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

    def _bound(self, program: Program, proceed: Callable[[], None]) -> Runnable | FogconvError:
        """The program's executable, or why there is none: the master waits for an answer to its load, not to the weights
        that completed it. Raises RunAborted."""
        try:
            return self._bind(program, proceed)
        except RunAborted:
            raise
        except FogconvError as error:
            return error.with_traceback(None)
        except Exception as error:
            return failure_of(error, "a program can't be bound")

    def _bind(self, program: Program, proceed: Callable[[], None]) -> Runnable:
        """The program, ready to run. Raises WorkerMemoryError, WireError, and the errors of the build."""
        needed = self._footprint(program)
        weights = self._weights(program, tight=self._free() < needed.total)
        executable = self.build(program, weights, threads=self._threads, proceed=proceed)
        self._check_after()
        self._private[executable] = needed.private
        return executable

    def _weights(self, program: Program, *, tight: bool) -> Lent:
        """Raises WorkerMemoryError for weights that are gone again, WireError for those of another shape than it says."""
        gone = self.store.missing(program.weights, self._packings(program))
        if gone:
            raise WorkerMemoryError(f"{len(gone)} of its weights had to make room for another program's")
        for key, shape in program.weights.items():
            found = self.store.shape(key)
            if found is not None and found != shape:
                raise WireError(f"a malformed program: weights {key} are {found}, not {shape}")
            kinds = self.store.kind(key), program.weight_types.get(key, "float32")
            if found is not None and kinds[0] != kinds[1]:
                raise WireError(f"a malformed program: weights {key} are of {kinds[0]}, not of {kinds[1]}")
        return self.store.lend(program.weights, tight=tight)

    def _check_memory(self, program: Program, missing: set[str]) -> None:
        """Raise WorkerMemoryError where the program needs more memory than the limit, before any weight is sent.

        Weights that no program needs count as free. The planner counts by the same function.
        """
        if not self._memory_limit_bytes:
            return
        needed = self._footprint(program)
        # The program's own plain weights go as they are packed.
        free = self._free() + self.store.plain_bytes(program.weights)
        if needed.total > free:
            free += self.store.evict(needed.total - free, keep=program.weights, packings=self._packings(program))
        if needed.total > free:
            limit = self._memory_limit_bytes
            raise WorkerMemoryError(
                f"the shard needs {needed.total / 1e6:.0f} MB (packed weights: {needed.packed / 1e6:.0f} MB, the largest "
                f"while it is packed: {needed.transit / 1e6:.0f} MB, maps and messages: {needed.private / 1e6:.0f} MB), but "
                f"{max(0, free) / 1e6:.0f} MB are left of this worker's limit of {limit / 1e6:.0f} MB, of which "
                f"{min(PROCESS_BYTES, limit) / 1e6:.0f} MB are for the process itself: give it less work, or raise --memory"
            )

    def _check_after(self) -> None:
        """Raise WorkerMemoryError where the process holds more than its limit now that everything is packed and compiled."""
        most = MARGIN * self._memory_limit_bytes
        if not self._memory_limit_bytes or process_bytes() <= most:
            return
        trim()
        held = process_bytes()
        if held > most:
            raise WorkerMemoryError(
                f"with this shard the process holds {held / 1e6:.0f} MB, but its limit is "
                f"{self._memory_limit_bytes / 1e6:.0f} MB: give it less work, or raise --memory"
            )

    def _free(self) -> int:
        """The bytes that the limit leaves beside the stored weights and the maps of the loaded programs."""
        if not self._memory_limit_bytes:
            return sys.maxsize
        return room(self._memory_limit_bytes) - self.store.held_bytes - sum(self._private.values())

    def _footprint(self, program: Program) -> Footprint:
        whole = isinstance(self.build, OwnKernels) and self.build.whole_maps
        return footprint(program, threads=self._threads, choose=_choose(), packed=self.store.packed, whole_maps=whole)

    def _packings(self, program: Program) -> Collection[Packing]:
        return packings(program, _choose())

    def _trim(self, session: MasterSession) -> None:
        """After a program is built, keep weights that it does not use only where there is room."""
        waiting = {key for loading in session.loading for key in loading.program.weights}
        self.store.forget_swapped(waiting)
        if not self._keep_weights:
            self.store.evict(sys.maxsize, keep=waiting)
        elif self._memory_limit_bytes:
            self.store.evict(-self._free(), keep=waiting)


def _choose() -> Choose:
    """The kernels' own choice: it knows the measurements of this machine, and the planner only the rule."""
    from fogconv.kernels.conv.conv import algorithm_of  # imported late: only processes that bind need compiled code

    return algorithm_of


def failure_of(error: Exception, what: str) -> FogconvError:
    """The error reported to the master for an exception. The master can plan around a lack of memory; anything else is a
    bug."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return WorkerMemoryError(f"{what}: out of memory {error}".rstrip())
    if "out of memory" in str(error).lower() or "allocate memory" in str(error).lower():
        return WorkerMemoryError(f"{what}: {error}")
    log.exception("%s", what)
    return WorkerFailedError(f"{type(error).__name__}: {error}")


def failed(request: int, run: int, error: FogconvError) -> m.Failed:
    """The answer to a failed request or run."""
    log.error("request %d, run %d: %s", request, run, error)
    return m.Failed(request, run, type(error).__name__, str(error)[:4000])
