"""ProgramLoader: programs and their weights come, are checked against the memory limit, and are built when all is there.

What it yields are the answers to the master, each as soon as it is due.
"""

from __future__ import annotations

import errno
import logging
import sys
import time
from collections.abc import Callable, Collection, Iterator
from weakref import WeakKeyDictionary

import msgspec

from fogconv.cluster.executor.interface import Build, Runnable, Shares
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.worker.master_session import Loading, MasterSession
from fogconv.cluster.worker.system import process_bytes, trim
from fogconv.cluster.worker.weight_cache import WeightStore
from fogconv.errors import FogconvError, WireError, WorkerFailedError, WorkerMemoryError
from fogconv.ir import program as ir
from fogconv.ir.memory.footprint import MARGIN, PROCESS_BYTES, Choose, Footprint, Packing, footprint, packings, room

log = logging.getLogger("fogconv.worker")


class ProgramLoader:
    """``adopt`` is called with each program that is ready, before the master is told."""

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
        self._private: WeakKeyDictionary[Runnable, int] = WeakKeyDictionary()
        """What each program that is loaded takes beside its weights."""
        self._keep_weights = keep_weights
        self._adopt = adopt

    def load(self, session: MasterSession, task: m.Load, payload: Frame) -> Iterator[m.AnyMessage]:
        """A program came: tell which of its weights are missing. Raises WireError, WorkerMemoryError."""
        try:
            program = ir.decode(bytes(payload))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise WireError(f"a malformed program: {error}") from error
        missing = self.store.missing(program.weights, self._packings(program))
        self._check_memory(program, missing)
        session.loading.append(Loading(task.request, task.program, program, missing))
        yield m.Missing(task.request, tuple(sorted(missing)))
        yield from self._build_complete(session)

    def keep(self, session: MasterSession, task: m.Weight, payload: Frame) -> Iterator[m.AnyMessage]:
        """Weights came. Raises WireError where no program waits for them."""
        if not any(task.key in loading.missing for loading in session.loading) and not self.store.has(task.key):
            raise WireError(f"weights {task.key} came that no program waits for")
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
        yield from self._build_complete(session)

    def _build_complete(self, session: MasterSession) -> Iterator[m.AnyMessage]:
        for loading in [loading for loading in session.loading if not loading.missing]:
            session.loading.remove(loading)
            begin = time.perf_counter()
            program = loading.program
            try:
                executable = self._bind(program)
            except FogconvError as error:
                yield failed(loading.request, 0, error)
                continue
            except Exception as error:  # the master waits for an answer to the load, not to what completed it
                yield failed(loading.request, 0, refusal(error))
                continue
            if program.shares and isinstance(executable, Shares):
                executable.arrays = session.arrays.setdefault(program.shares, executable.arrays)
            self._adopt(session, loading, executable)
            self._trim(session)
            seconds = time.perf_counter() - begin
            log.info("program %d is ready after %.2f s, %.1f MB", loading.number, seconds, executable.memory_bytes / 1e6)
            yield m.Loaded(loading.request, loading.number, executable.memory_bytes, process_bytes(), seconds)

    def _bind(self, program: ir.Program) -> Runnable:
        """The program, ready to run. Raises WorkerMemoryError, and what the build raises."""
        needed = self._footprint(program)
        weights = self.store.lend(program.weights, tight=self._free() < needed.total)
        executable = self.build(program, weights, threads=self._threads)
        self._check_after()
        self._private[executable] = needed.private
        return executable

    def _check_memory(self, program: ir.Program, missing: set[str]) -> None:
        """Raise WorkerMemoryError where what the program needs is over the limit, before anything is shipped.

        Weights that nobody needs now count as free. The planner counts by the same function.
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
        """What the limit leaves beside the weights that are here and the maps of the programs that are loaded."""
        if not self._memory_limit_bytes:
            return sys.maxsize
        return room(self._memory_limit_bytes) - self.store.held_bytes - sum(self._private.values())

    def _footprint(self, program: ir.Program) -> Footprint:
        return footprint(program, threads=self._threads, choose=_choose(), packed=self.store.packed)

    def _packings(self, program: ir.Program) -> Collection[Packing]:
        return packings(program, _choose())

    def _trim(self, session: MasterSession) -> None:
        """After a program is built, keep weights that it does not use only where there is room."""
        waiting = {key for loading in session.loading for key in loading.program.weights}
        if not self._keep_weights:
            self.store.evict(sys.maxsize, keep=waiting)
        elif self._memory_limit_bytes:
            self.store.evict(-self._free(), keep=waiting)


def refusal(error: Exception) -> FogconvError:
    """What a program that can't be bound is answered: that memory is short, or that it is a bug."""
    text = str(error).lower()
    short = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    # LLVM's binding has no class of its own for it.
    if short or (isinstance(error, RuntimeError) and ("out of memory" in text or "allocate memory" in text)):
        return WorkerMemoryError(
            f"this worker ran out of memory while it prepared its shard ({text or type(error).__name__})"
        )
    log.exception("a program can't be bound")
    return WorkerFailedError(f"{type(error).__name__}: {error}")


def _choose() -> Choose:
    """The kernels' own choice: it knows what was measured here, where the planner knows the rule alone."""
    from fogconv.kernels.conv.conv import algorithm_of  # late: compiled code is for those that bind

    return algorithm_of


def failed(request: int, run: int, error: FogconvError) -> m.Failed:
    """The answer to a request, or a run, that failed."""
    log.error("request %d, run %d: %s", request, run, error)
    return m.Failed(request, run, type(error).__name__, str(error)[:4000])
