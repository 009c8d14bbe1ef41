"""Session: the master's side of the cluster: open, load, run, close. One object for all transports.

    with connect("tcp://pi1:5555,tcp://pi2:5555") as session:
        loaded = session.load(programs, weights)
        result = session.run(loaded, [image])

All methods may be called from several threads. Runs of different Loaded overlap, and so do loads on different ranks; runs of
one Loaded, and loads on one rank, take turns.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import fogconv.errors
from fogconv.cluster.executor.executors import executor
from fogconv.cluster.executor.interface import Runnable
from fogconv.cluster.executor.mailbox import Inbox, RunMailbox
from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.clock import PingTimes
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.protocol.lifecycle import Event as LifeEvent
from fogconv.cluster.protocol.lifecycle import State
from fogconv.cluster.session.loaded_program import Loaded, Progress, RunResult
from fogconv.cluster.session.weight_upload import Shipping
from fogconv.cluster.session.worker_record import Link, WorkerInfo, failure_of, loss_message
from fogconv.cluster.session.workers import Workers
from fogconv.cluster.transport.dispatcher import Dispatcher
from fogconv.cluster.transport.endpoint import Endpoint, Event, Loss
from fogconv.errors import (
    ClusterError,
    InputError,
    TransportTimeout,
    WireError,
    WorkerLostError,
)
from fogconv.ir import program as ir
from fogconv.ir.arrays import Array
from fogconv.ir.layout import MASTER

log = logging.getLogger("fogconv.session")

T = TypeVar("T")

MAX_RUNS_IN_FLIGHT = 16
LOAD_TIMEOUT_S = 900.0
"""Compiling on a small device, cold, takes minutes at worst; a lost worker is noticed long before."""
HEARSAY_S = 0.3
"""A worker may hear of another's death a little before the master does."""
CLOCK_AGE_S = 10.0
"""Offsets older than this are measured again after a run: quartz drifts by some 10 µs a second."""


class Session:
    """Opened by ``fogconv.cluster.connect``. ``local`` builds the master's own executable from (program, weights, host)."""

    def __init__(
        self,
        endpoint: Endpoint,
        addresses: Sequence[str],
        *,
        keys: Sequence[str | None] = (),
        local: Callable[[ir.Program, Mapping[str, Array], Any], Runnable] | None = None,
        name: str = "",
        timeout_s: float = 60.0,
        connect_timeout_s: float = 5.0,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name or f"{os.uname().nodename}:{os.getpid()}"
        self.timeout_s = timeout_s
        self._endpoint = endpoint
        self._local = local or _interpreter
        self._on_close = on_close
        self._board = Dispatcher(endpoint, self._handle)
        self._inbox = Inbox()
        self._done: dict[tuple[int, int], tuple[m.Done, Frame]] = {}
        self._active: dict[int, frozenset[int]] = {}
        self._expendable: dict[int, frozenset[int]] = {}
        self._loaded: dict[int, Loaded] = {}
        self._run = 0
        self._program = 0
        self._order = threading.Lock()
        self._loading = [threading.Lock() for _ in range(len(addresses) + 1)]
        self._in_flight = threading.BoundedSemaphore(MAX_RUNS_IN_FLIGHT)
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False
        atexit.register(self.close)
        self.token = os.urandom(16)
        self._workers = Workers(
            endpoint,
            self._board,
            addresses,
            keys or [None] * len(addresses),
            hello=lambda rank: m.Hello(self.token, rank, self.ranks, self.name, self.timeout_s),
            on_loss=self._fail_runs,
            timeout_s=timeout_s,
        )
        self._links = self._workers.links
        try:
            self._workers.join(connect_timeout_s)
        except BaseException:
            self.close()
            raise

    # The cluster

    @property
    def scheme(self) -> str:
        """The transport: "inproc", "tcp" or "mpi"."""
        return self._endpoint.scheme

    @property
    def ranks(self) -> int:
        """Ranks that the session was opened with, the master and lost ones included."""
        return len(self._links) + 1

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called; nothing can be run any more."""
        return self._closed

    @property
    def workers(self) -> tuple[WorkerInfo, ...]:
        """The workers that are there, by rank."""
        return self._workers.infos

    @property
    def lost(self) -> frozenset[int]:
        """The ranks of the workers that are gone. Known as of the last call that waited; ``refresh`` looks now."""
        return self._workers.lost

    def refresh(self) -> frozenset[int]:
        """Handle what has come in; the lost ranks."""
        self._board.drain()
        return self.lost

    def rejoin(self, timeout_s: float = 1.0) -> frozenset[int]:
        """Invite lost workers back under their old ranks, and wait so long for them; the ranks that are back.

        Invitations stay open: whoever answers later is back at a later call. With 0 nobody is waited for: ``acquaint`` is
        due then. What a returned worker had loaded must be loaded again; weights that it kept are not shipped again.
        """
        if self.scheme == "mpi" or self._closed:
            return frozenset()
        return self._workers.rejoin(timeout_s)

    def acquaint(self, rank: int) -> None:
        """Wait until a worker that is back knows the others, and they it, and its clock is known."""
        self._workers.acquaint([rank])

    def reconnect(self) -> None:
        """Have the workers make their links to each other anew, where one of these broke."""
        self._workers.introduce()
        self._workers.acquaint(())

    def synchronise(self, ranks: Iterable[int] | None = None) -> None:
        """Measure the workers' clocks against the master's."""
        self._workers.synchronise([info.rank for info in self.workers] if ranks is None else list(ranks))

    # Programs

    def load(
        self,
        programs: Sequence[ir.Program],
        weights: Mapping[str, Array],
        *,
        host: Any = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Loaded:
        """Prepare programs, one per rank that takes part (those without steps are left out), on all ranks at once.

        ``weights`` holds every array that they name, by content key. Each worker is asked which it already has and is sent
        only what its own program lacks. Raises WorkerMemoryError, WorkerLostError, WorkerFailedError, InputError.
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
                requests = {rank: self._ask_load(rank, number, program) for rank, program in remote.items()}
                missing = {
                    rank: self._workers.reply(rank, request, m.Missing, self.timeout_s)[0].keys
                    for rank, request in requests.items()
                }
                self._check_missing(remote, missing)
                own = parts.get(MASTER)
                shipping = Shipping(self._workers, self._board, requests, missing, weights, LOAD_TIMEOUT_S, progress)
                shipping.start()
                executable = None if own is None else self._local(own, {key: weights[key] for key in own.weights}, host)
                shipping.finish()
                sizes = {}
                for ready, (rank, request) in enumerate(requests.items(), start=1):
                    answer = self._workers.reply(rank, request, m.Loaded, LOAD_TIMEOUT_S)[0]
                    sizes[rank] = answer.program_bytes
                    self._workers.set_memory(rank, answer.memory_bytes)
                    shipping.report(ready)
            except BaseException:
                for rank in remote:
                    if self._links[rank].life.joined:
                        self._workers.send(self._links[rank], m.Unload(number))
                raise
            if executable is not None:
                sizes[MASTER] = executable.memory_bytes
            loaded = Loaded(number, parts, executable, shipping.total_of, sizes, ir.expendable(parts.values()))
            self._loaded[number] = loaded
            return loaded

    def unload(self, loaded: Loaded) -> None:
        """Free what a Loaded takes on all ranks; weights stay with the workers."""
        with loaded.lock:
            if self._loaded.pop(loaded.number, None) is None:
                return
            loaded.executable = None
            for rank in loaded.ranks:
                if self._links[rank].life.joined:
                    self._workers.send(self._links[rank], m.Unload(loaded.number))

    def _check(self, parts: Mapping[int, ir.Program], weights: Mapping[str, Array]) -> None:
        self._require_open()
        for rank, program in parts.items():
            if rank != MASTER and rank not in self._links:
                raise InputError(f"a program for rank {rank}: this session has the ranks 0 to {self.ranks - 1}")
            if rank != MASTER:
                self._workers.require(rank)
            for key, shape in program.weights.items():
                if key not in weights:
                    raise InputError(f"the program of rank {rank} names weights {key}, which were not given")
                given = weights[key].shape
                if given != tuple(shape):
                    raise InputError(f"weights {key}: the program says {tuple(shape)}, the array has {given}")

    def _check_missing(self, remote: Mapping[int, ir.Program], missing: Mapping[int, Sequence[str]]) -> None:
        """A worker that asks for what its program does not name is not one of ours."""
        for rank, keys in missing.items():
            strange = set(keys) - remote[rank].weights.keys()
            if strange:
                with self._board.lock:
                    self._workers.lose(
                        self._links[rank], f"it asked for weights that its program does not name ({min(strange)})"
                    )
                self._workers.require(rank)

    def _ask_load(self, rank: int, number: int, program: ir.Program) -> int:
        request = self._workers.next_request(rank)
        self._workers.send(self._links[rank], m.Load(request, number), ir.encode(program))
        return request

    # Runs

    def run(
        self,
        loaded: Loaded,
        inputs: Sequence[NDArray[Any]] | Callable[[], Sequence[NDArray[Any]]] = (),
        *,
        timeout_s: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> RunResult:
        """One inference. Raises WorkerLostError(rank), WorkerFailedError(rank), TransportTimeout; the session stays usable.

        ``inputs`` may be what makes them, which is called while the workers wake up. ``timeout_s`` is for each message that
        the master waits for. ``meanwhile`` is something to do before it waits for arrays (see Executable.run).
        """
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        with self._in_flight, loaded.lock:
            self._require_open()
            if loaded.number not in self._loaded:
                raise InputError("these programs were unloaded")
            # Workers do runs in the order in which they are asked, so all must be asked in one order.
            with self._order:
                run = self._begin(loaded)
                begin_ns = time.perf_counter_ns()
                for rank in loaded.ranks:
                    self._workers.send(self._links[rank], m.Run(run, loaded.number))
            mailbox = RunMailbox(self._board, self._inbox, run, self._poster(run), timeout_s)
            try:
                more = {} if meanwhile is None else {"meanwhile": meanwhile}
                given = inputs() if callable(inputs) else inputs
                outputs = [] if loaded.executable is None else loaded.executable.run(mailbox, given, **more)
                latency_s = (time.perf_counter_ns() - begin_ns) * 1e-9
                done = self._await_done(run, loaded, timeout_s, mailbox.skipped)
            except WorkerLostError as error:
                self._abort(run, loaded)
                raise self._traced(error, loaded) from error
            except BaseException:
                self._abort(run, loaded)
                raise
            finally:
                self._end(run, loaded)
            result = self._result(run, loaded, mailbox, outputs, begin_ns, latency_s, done)
        if time.monotonic() - self._workers.clocks_at > CLOCK_AGE_S:
            self.synchronise(loaded.ranks - self.lost)
        return result

    def room(self, shape: tuple[int, ...]) -> Array | None:
        """An array to make an input in, from which it reaches workers on this machine uncopied; None where it would not."""
        memory = self._endpoint.room(4 * math.prod(shape))
        return None if memory is None else np.frombuffer(memory, np.float32).reshape(shape)

    def submit(self, loaded: Loaded, inputs: Sequence[NDArray[Any]] = ()) -> Future[RunResult]:
        """``run`` in the background. Runs of several Loaded (the same programs loaded twice, say) overlap."""
        with self._order:
            self._require_open()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(MAX_RUNS_IN_FLIGHT, "fogconv-run")
        return self._pool.submit(self.run, loaded, inputs)

    def _begin(self, loaded: Loaded) -> int:
        with self._board.lock:
            for rank in loaded.ranks:
                self._workers.require(rank)
            self._run += 1
            self._active[self._run] = loaded.ranks
            self._expendable[self._run] = loaded.expendable
            for rank in loaded.ranks:
                self._links[rank].life.apply(LifeEvent.RUN)
            return self._run

    def _poster(self, run: int) -> Callable[[int, int, Frame], None]:
        links, send, encode = self._links, self._endpoint.send, codec.encode

        def post(to: int, tag: int, payload: Frame) -> None:
            send(links[to].peer, encode(m.Data(run, tag), payload))

        return post

    def _await_done(
        self, run: int, loaded: Loaded, timeout_s: float, skipped: Collection[int]
    ) -> dict[int, tuple[m.Done, Frame]]:
        """Without those that are gone, or that the run did not wait for: these are told to leave it."""
        gone = self._inbox.gone(run)
        wanted = [(run, rank) for rank in loaded.ranks if rank not in gone and rank not in skipped]

        def ready() -> bool | None:
            failure = self._inbox.failure(run)
            if failure is not None:
                raise failure
            return True if all(key in self._done or key[1] in gone for key in wanted) else None

        if self._board.wait(ready, timeout_s) is None:
            late = [rank for _, rank in wanted if (run, rank) not in self._done]
            raise TransportTimeout(f"ranks {late} did not report the end of run {run} within {timeout_s:g} s")
        for rank in skipped:
            if self._links[rank].life.joined and (run, rank) not in self._done:
                self._workers.send(self._links[rank], m.Abort(run))
        return {rank: self._done[run, rank] for rank in loaded.ranks if (run, rank) in self._done}

    def _traced(self, error: WorkerLostError, loaded: Loaded) -> WorkerLostError:
        """A worker that tells of a broken link to another is not the one that died: name that one, if it is dead."""
        if error.rank in self.lost:
            return error
        found = self._board.wait(lambda: min(self.lost & loaded.ranks, default=None), HEARSAY_S)
        return error if found is None else WorkerLostError(loss_message(self._links[found]), found)

    def _abort(self, run: int, loaded: Loaded) -> None:
        for rank in loaded.ranks:
            if self._links[rank].life.joined:
                self._workers.send(self._links[rank], m.Abort(run))

    def _end(self, run: int, loaded: Loaded) -> None:
        with self._board.lock:
            self._inbox.close(run)
            self._active.pop(run, None)
            self._expendable.pop(run, None)
            for rank in loaded.ranks:
                self._done.pop((run, rank), None)
                if self._links[rank].life.state is State.BUSY:
                    self._links[rank].life.apply(LifeEvent.FINISH)

    def _result(
        self,
        run: int,
        loaded: Loaded,
        mailbox: RunMailbox,
        outputs: list[NDArray[Any]],
        begin_ns: int,
        latency_s: float,
        done: Mapping[int, tuple[m.Done, Frame]],
    ) -> RunResult:
        times, sent, received = {}, {MASTER: mailbox.sent_bytes}, {MASTER: mailbox.received_bytes}
        if loaded.executable is not None:
            times[MASTER] = loaded.executable.times.copy()
        for rank, (message, payload) in done.items():
            info = self._links[rank].info
            offset = 0 if info is None else info.clock_offset_ns
            if len(payload) != 16 * len(loaded.programs[rank].steps):
                raise WireError(f"rank {rank} reports times of {len(payload)} bytes for its program")
            times[rank] = np.frombuffer(payload, np.int64).reshape(-1, 2) - offset
            sent[rank], received[rank] = message.sent_bytes, message.received_bytes
        return RunResult(run, outputs, begin_ns, latency_s, times, sent, received, tuple(mailbox.events))

    # Measurements

    def ping(self, rank: int, nbytes: int = 0, back_bytes: int | None = None) -> PingTimes:
        """One exchange with a worker, ``nbytes`` there and then as many back (or ``back_bytes``), for α and β."""
        self._require_open()
        there = self._workers.exchange(rank, bytes(nbytes), echo=False, reply_bytes=0)
        back = self._workers.exchange(rank, b"", echo=False, reply_bytes=nbytes if back_bytes is None else back_bytes)
        info = self._links[rank].info
        return PingTimes.of(there, back, 0 if info is None else info.clock_offset_ns)

    def measure(
        self, specs: Sequence[fogconv.ir.geometry.ConvSpec], *, ranks: Iterable[int] | None = None, repeats: int = 3
    ) -> dict[int, m.Measured]:
        """Let workers (all, unless named) time convs, all at once: rank → seconds per spec, and a copy rate in bytes/s."""
        self._require_open()
        chosen = [info.rank for info in self.workers] if ranks is None else list(ranks)
        requests = {}
        for rank in chosen:
            requests[rank] = self._workers.next_request(rank)
            self._workers.post(rank, m.Measure(requests[rank], tuple(specs), repeats))
        return {
            rank: self._workers.reply(rank, request, m.Measured, LOAD_TIMEOUT_S)[0] for rank, request in requests.items()
        }

    def status(self, timeout_s: float = 5.0) -> dict[int, m.Status]:
        """What each worker tells of itself; those that do not answer in time are left out."""
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
        """Let the workers go, ready for the next master. Again: nothing."""
        with self._order:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        with self._board.lock:
            for run in self._active:
                self._inbox.fail(run, ClusterError("the session was closed"))
        self._board.changed()
        if self._pool is not None:
            self._pool.shutdown(wait=True)
        for link in self._links.values():
            if link.life.joined:
                self._workers.send(link, m.Bye())
            link.life.apply(LifeEvent.STOP)
        self._board.changed()  # whoever still loads in another thread finds its workers gone
        self._endpoint.close()
        self._on_close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # Messages

    def _require_open(self) -> None:
        if self._closed:
            raise ClusterError("the session is closed")

    def _handle(self, event: Event) -> None:
        workers = self._workers
        rank = workers.rank_of.get(event.peer)
        if rank is None:
            return
        link = workers.links[rank]
        if isinstance(event, Loss):
            workers.lose(link, event.reason)
            return
        link.seen = time.monotonic()
        try:
            message, payloads = codec.decode(event.frames)
        except WireError as error:
            workers.misread(link, error)
            return
        match message:
            case m.Data():
                if rank in self._active.get(message.run, ()):
                    self._inbox.put(message.run, rank, message.tag, payloads[0])
            case m.Done():
                if rank in self._active.get(message.run, ()):
                    self._done[message.run, rank] = (message, payloads[0])
            case m.Failed() if message.run:
                if message.run in self._active:
                    self._inbox.fail(message.run, failure_of(message, rank, link))
            case _:
                workers.take(link, message)

    def _fail_runs(self, link: Link) -> None:
        """A worker is lost: the runs that need it fail."""
        for run, ranks in self._active.items():
            if link.rank in self._expendable.get(run, ()):
                self._inbox.lose(run, link.rank)
            elif link.rank in ranks:
                self._inbox.fail(run, WorkerLostError(loss_message(link), link.rank))


def _interpreter(program: ir.Program, weights: Mapping[str, Array], host: Any) -> Runnable:
    return executor()(program, weights, threads=len(os.sched_getaffinity(0)), host=host)
