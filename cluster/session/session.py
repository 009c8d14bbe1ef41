"""Session: the master's side of the cluster: open, load, run, close. One object for all transports.

    with connect("tcp://pi1:5555,tcp://pi2:5555") as session:
        loaded = session.load(programs, weights)
        result = session.run(loaded, [image])

All methods may be called from several threads. Runs of different Loaded overlap, and so do loads on different ranks; runs
of one Loaded, and loads on one rank, are serialised.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from fogconv.cluster.compilers.helpers import Helpers
from fogconv.cluster.executor.executors import executor
from fogconv.cluster.executor.interface import Runnable, nothing
from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.clock import PingTimes
from fogconv.cluster.protocol.timeouts import MESSAGE_S
from fogconv.cluster.session.loaded_program import Loaded, Progress, RunResult
from fogconv.cluster.session.runs import MAX_RUNS_IN_FLIGHT, Inputs, Runs
from fogconv.cluster.session.weight_upload import Shipping
from fogconv.cluster.session.worker_record import WorkerInfo
from fogconv.cluster.session.workers import Workers
from fogconv.cluster.transport.dispatcher import Dispatcher
from fogconv.cluster.transport.endpoint import Endpoint, Event, Loss
from fogconv.cluster.transport.mpi.launch import launched
from fogconv.errors import ClusterError, InputError, TransportTimeout, WireError, WorkerLostError
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import ConvSpec, MapSpec, StepSpec
from fogconv.ir.layout import MASTER
from fogconv.ir.program import Program, encode, expendable

log = logging.getLogger("fogconv.session")

T = TypeVar("T")

LOAD_TIMEOUT_S = 900.0
"""Compiling on a small device, cold, takes minutes at worst; a lost worker is noticed long before."""
CLOCK_AGE_S = 10.0
"""Offsets older than this are measured again after a run: clocks drift by about 10 µs per second."""


class Session:
    """Opened by ``fogconv.cluster.connect``. ``local`` builds the master's own executable from (program, weights, host).

    ``rejoins``: whether the transport lets a lost worker come back. ``on_close`` is called at the end.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        addresses: Sequence[str],
        *,
        keys: Sequence[str | None] = (),
        local: Callable[[Program, Mapping[str, Array], Any], Runnable] | None = None,
        name: str = "",
        timeout_s: float = MESSAGE_S,
        connect_timeout_s: float = 5.0,
        rejoins: bool = True,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name or f"{os.uname().nodename}:{os.getpid()}"
        self.timeout_s = timeout_s
        self._endpoint = endpoint
        self._local = local or _interpreter
        self._rejoins = rejoins
        self._on_close = on_close
        self._board = Dispatcher(endpoint, self._handle, self._drop)
        self._loaded: dict[int, Loaded] = {}
        self._program = 0
        self._closing = threading.Lock()
        self._loading = [threading.Lock() for _ in range(len(addresses) + 1)]
        self._in_flight = threading.BoundedSemaphore(MAX_RUNS_IN_FLIGHT)
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False
        atexit.register(self.close)
        self._encrypted = any(keys)
        self.token = os.urandom(16)
        self._workers = Workers(
            endpoint,
            self._board,
            addresses,
            keys or [None] * len(addresses),
            master=self.token,
            hello=lambda rank: m.Hello(self.token, rank, self.ranks, self.name, self.timeout_s),
            on_runs=lambda record, effect: self._runs.heed(record, effect),
            timeout_s=timeout_s,
        )
        self._runs = Runs(endpoint, self._board, self._workers)
        self._records = self._workers.records
        try:
            self._workers.join(connect_timeout_s)
        except BaseException:
            self.close()
            raise

    # The cluster

    @property
    def walked(self) -> bool:
        """Whether compiled code sends the messages of runs (`fogconv.cluster.transport.channel`): over ZeroMQ, without
        encryption."""
        return self.scheme == "tcp" and not self._encrypted

    @property
    def scheme(self) -> str:
        """The transport: "inproc", "tcp" or "mpi"."""
        return self._endpoint.scheme

    @property
    def ranks(self) -> int:
        """Ranks that the session was opened with, the master and lost ones included."""
        return len(self._records) + 1

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called; nothing can be run any more."""
        return self._closed

    @property
    def workers(self) -> tuple[WorkerInfo, ...]:
        """The present workers, by rank."""
        return self._workers.infos

    @property
    def lost(self) -> frozenset[int]:
        """The ranks of the lost workers, as of the last call that waited; ``refresh`` updates it."""
        return self._workers.lost

    def refresh(self) -> frozenset[int]:
        """Handle all received messages. Returns the lost ranks. Raises ClusterError after ``close``: then none is lost."""
        self._require_open()
        self._board.drain()
        return self.lost

    def rejoin(self, timeout_s: float = 1.0) -> frozenset[int]:
        """Invite lost workers back under their old ranks, and wait up to ``timeout_s`` for them. Returns the ranks that
        are back.

        Invitations stay open: workers that answer later are returned by a later call. With ``timeout_s`` = 0 this returns
        at once; call ``acquaint`` before giving a returned worker work. Its programs must be loaded again; weights that
        it kept are not sent again.
        """
        if not self._rejoins or self._closed:
            return frozenset()
        return self._workers.rejoin(timeout_s)

    def acquaint(self, rank: int) -> None:
        """Wait until a returned worker and the others know each other, and its clock is measured."""
        self._workers.acquaint([rank])

    def reconnect(self) -> None:
        """Let the workers reconnect their links to each other, after one of these broke."""
        self._workers.reconnect()

    @property
    def reconnects(self) -> int:
        """How often ``reconnect`` was called since the last successful run."""
        return self._workers.reconnects

    @property
    def last_run(self) -> int:
        """The number of the last run; 0 before the first."""
        return self._runs.last

    def synchronise(self, ranks: Iterable[int] | None = None) -> None:
        """Measure the workers' clocks against the master's."""
        self._workers.synchronise([info.rank for info in self.workers] if ranks is None else list(ranks))

    # Programs

    def load(
        self,
        programs: Sequence[Program],
        weights: Mapping[str, Array],
        *,
        host: Any = None,
        progress: Callable[[Progress], None] | None = None,
        runs: int = 1,
        behind: bool = False,
    ) -> Loaded:
        """Prepare programs, one per rank that takes part (those without steps are left out), on all ranks at once.

        ``weights`` holds every array that they name, by content key. Each worker reports the arrays that it already has,
        and receives only those that its own program lacks. ``runs``: with `again`, how many runs may be asked for at once.
        ``behind``: messages of other programs' runs overtake its weights on their way.
        Raises WorkerMemoryError, WorkerLostError, WorkerFailedError, InputError.
        """
        parts = {program.rank: program for program in programs if program.steps}
        self._check(parts, weights)
        with ExitStack() as turn:
            for rank in sorted(parts):
                turn.enter_context(self._loading[rank])
            with self._board.lock:
                self._program += 1
                number = self._program
            remote = {rank: program for rank, program in parts.items() if rank != MASTER}
            try:
                requests = {rank: self._ask_load(rank, number, program, runs) for rank, program in remote.items()}
                missing = {
                    rank: self._workers.outcome(rank, request, m.Missing, LOAD_TIMEOUT_S).keys
                    for rank, request in requests.items()
                }
                self._check_missing(remote, missing)
                own = parts.get(MASTER)
                shipping = Shipping(
                    self._workers, self._board, requests, missing, weights, self.timeout_s, progress, behind=behind
                )
                shipping.start()
                executable = None if own is None else self._local(own, {key: weights[key] for key in own.weights}, host)
                shipping.finish()
                sizes = {}
                for ready, (rank, request) in enumerate(requests.items(), start=1):
                    answer = self._workers.outcome(rank, request, m.Loaded, LOAD_TIMEOUT_S)
                    sizes[rank] = answer.program_bytes
                    self._workers.set_memory(rank, answer.memory_bytes)
                    shipping.report(ready)
            except BaseException:
                for rank in remote:
                    if self._records[rank].joined:
                        self._workers.send(self._records[rank], m.Unload(number))
                raise
            if executable is not None:
                sizes[MASTER] = executable.memory_bytes
            loaded = Loaded(number, number, parts, executable, shipping.total_of, sizes, expendable(parts.values()))
            self._loaded[number] = loaded
            return loaded

    def again(self, loaded: Loaded, weights: Mapping[str, Array], *, host: Any = None) -> Loaded:
        """The same programs once more, to have several runs of them on their way: the master's is prepared again, and the
        workers do the runs one after the other. Raises InputError for programs that were unloaded."""
        if loaded.number not in self._loaded:
            raise InputError("these programs were unloaded")
        own = loaded.programs.get(MASTER)
        executable = None if own is None else self._local(own, {key: weights[key] for key in own.weights}, host)
        with self._board.lock:
            self._program += 1
            number = self._program
        sizes = {} if executable is None else {MASTER: executable.memory_bytes}
        found = Loaded(number, loaded.program, loaded.programs, executable, {}, sizes, loaded.expendable)
        self._loaded[number] = found
        return found

    def unload(self, loaded: Loaded) -> None:
        """Free the memory of a Loaded on all ranks; weights stay on the workers."""
        with loaded.lock:
            if self._loaded.pop(loaded.number, None) is None:
                return
            loaded.executable = None
            if any(other.program == loaded.program for other in self._loaded.values()):
                return
            for rank in loaded.ranks:
                if self._records[rank].joined:
                    self._workers.send(self._records[rank], m.Unload(loaded.program))

    def _check(self, parts: Mapping[int, Program], weights: Mapping[str, Array]) -> None:
        self._require_open()
        for rank, program in parts.items():
            if rank != MASTER and rank not in self._records:
                raise InputError(f"a program for rank {rank}: this session has the ranks 0 to {self.ranks - 1}")
            if rank != MASTER:
                self._workers.require(rank)
            for key, shape in program.weights.items():
                if key not in weights:
                    raise InputError(f"the program of rank {rank} names weights {key}, which are missing")
                given = weights[key].shape
                if given != tuple(shape):
                    raise InputError(f"weights {key}: the program says {tuple(shape)}, the array has {given}")

    def _check_missing(self, remote: Mapping[int, Program], missing: Mapping[int, Sequence[str]]) -> None:
        """A worker that asks for weights that its program does not name can't be trusted."""
        for rank, keys in missing.items():
            strange = set(keys) - remote[rank].weights.keys()
            if strange:
                with self._board.lock:
                    self._workers.lose(
                        self._records[rank], f"it asked for weights that its program does not name ({min(strange)})"
                    )
                self._workers.require(rank)

    def _ask_load(self, rank: int, number: int, program: Program, runs: int) -> int:
        request = self._workers.next_request(rank)
        self._workers.send(self._records[rank], m.Load(request, number, runs), encode(program))
        return request

    # Runs

    def run(
        self,
        loaded: Loaded,
        inputs: Inputs = (),
        *,
        timeout_s: float | None = None,
        meanwhile: Callable[[], None] = nothing,
    ) -> RunResult:
        """One inference. Raises WorkerLostError(rank), WorkerFailedError(rank), TransportTimeout; the session stays usable.

        ``inputs`` may be a function that returns them; it is called while the workers wake up. ``timeout_s`` is for each
        message that the master waits for. ``meanwhile`` is called before it waits for arrays (see Runnable.run).
        """
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        with self._in_flight, loaded.lock:
            self._require_open()
            if loaded.number not in self._loaded:
                raise InputError("these programs were unloaded")
            result = self._runs.run(loaded, inputs, timeout_s, meanwhile)
        if time.monotonic() - self._workers.clocks_at > CLOCK_AGE_S:
            self.synchronise(loaded.ranks - self.lost)
        return result

    def room(self, shape: tuple[int, ...]) -> Array | None:
        """An array for an input that reaches workers on this machine without a copy; None where that is impossible."""
        memory = self._endpoint.room(4 * math.prod(shape))
        return None if memory is None else np.frombuffer(memory, np.float32).reshape(shape)

    def submit(self, loaded: Loaded, inputs: Sequence[Array] = ()) -> Future[RunResult]:
        """``run`` in the background. Runs of several Loaded (for example the same programs loaded twice) overlap."""
        with self._closing:
            self._require_open()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(MAX_RUNS_IN_FLIGHT, "fogconv-run")
        return self._pool.submit(self.run, loaded, inputs)

    # Measurements

    def ping(self, rank: int, nbytes: int = 0, back_bytes: int | None = None) -> PingTimes:
        """One exchange with a worker, ``nbytes`` there and then as many back (or ``back_bytes``), for α and β."""
        self._require_open()
        there = self._workers.exchange(rank, bytes(nbytes), ordered=False)
        back = self._workers.exchange(rank, reply_bytes=nbytes if back_bytes is None else back_bytes, ordered=False)
        info = self._records[rank].info
        return PingTimes.of(there, back, 0 if info is None else info.clock_offset_ns)

    def idle(self, seconds: float) -> None:
        """Wait as for a message that does not come, and take what does: what waiting costs the processor."""
        self._require_open()
        self._board.wait(_never, seconds)

    def measure(
        self, specs: Sequence[StepSpec], *, ranks: Iterable[int] | None = None, repeats: int = 3
    ) -> dict[int, m.Measured]:
        """Let workers (all, unless named) time steps, all at once: rank → seconds per spec, and a copy rate in bytes/s.

        Convs come before steps of other kinds, in ``specs`` as in the answers.
        """
        self._require_open()
        convs = tuple(spec for spec in specs if isinstance(spec, ConvSpec))
        maps = tuple(spec for spec in specs if isinstance(spec, MapSpec))
        chosen = [info.rank for info in self.workers] if ranks is None else list(ranks)
        requests = {}
        for rank in chosen:
            requests[rank] = self._workers.next_request(rank)
            self._workers.post(rank, m.Measure(requests[rank], convs, repeats, maps))
        return {rank: self._workers.outcome(rank, request, m.Measured, LOAD_TIMEOUT_S) for rank, request in requests.items()}

    def read_rate(self, rank: int, disk_bytes: int) -> float:
        """The bytes per second at which a worker reads so many from the disk that it swaps to. Raises SwapError."""
        self._require_open()
        request = self._workers.next_request(rank)
        self._workers.post(rank, m.Measure(request, (), 1, disk_bytes=disk_bytes))
        return self._workers.outcome(rank, request, m.Measured, LOAD_TIMEOUT_S).read_bytes_per_s

    def status(self, timeout_s: float = 5.0) -> dict[int, m.Status]:
        """The status of each worker; those that do not answer in time are left out."""
        self._require_open()
        requests = {}
        for info in self.workers:
            requests[info.rank] = self._workers.next_request(info.rank)
            self._workers.post(info.rank, m.StatusQuery(requests[info.rank]))
        answers = {}
        for rank, request in requests.items():
            try:
                answers[rank] = self._workers.reply(rank, request, m.Status, timeout_s)[0]
            except (WorkerLostError, TransportTimeout) as error:
                log.info("no status: %s", error)
        return answers

    # The end

    def close(self) -> None:
        """Release the workers, ready for the next master. A second call does nothing."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        with self._board.lock:
            self._workers.stop("the session was closed")
        self._board.changed()  # runs and loads in other threads find their workers lost
        if self._pool is not None:
            self._pool.shutdown(wait=True)
        self._endpoint.close()
        self._on_close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # Messages

    def _drop(self, event: Event, error: Exception) -> None:
        """An event of a worker could not be handled: that worker is lost, the session stays."""
        log.error("a message of a worker could not be handled", exc_info=error)
        rank = self._workers.rank_of.get(event.peer)
        if rank is not None:
            self._workers.lose(self._records[rank], f"its message could not be handled: {type(error).__name__}: {error}")

    def _require_open(self) -> None:
        if self._closed:
            raise ClusterError("the session is closed")

    def _handle(self, event: Event) -> None:
        workers = self._workers
        rank = workers.rank_of.get(event.peer)
        if rank is None:
            return
        record = self._records[rank]
        if isinstance(event, Loss):
            workers.lose(record, event.reason)
            return
        record.last_message = time.monotonic()
        try:
            message, payloads = codec.decode(event.frames)
        except WireError as error:
            workers.misread(record, error)
            return
        match message:
            case m.Data() | m.Done():
                self._runs.take(record, message, payloads[0])
            case m.Failed() if message.run:
                self._runs.take(record, message, b"")
            case _:
                workers.take(record, message)


def _never() -> bool | None:
    return None


def _interpreter(program: Program, weights: Mapping[str, Array], host: Any) -> Runnable:
    cores = len(os.sched_getaffinity(0))
    # mpirun's other ranks compile on the other cores.
    with Helpers(program, cores, 0 if launched() is not None else cores - 1).beside():
        return executor()(program, weights, threads=cores, host=host)
