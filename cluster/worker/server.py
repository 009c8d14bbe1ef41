"""Worker: serves one master at a time: holds weights, loads programs, runs them, answers.

It knows no model. Arrivals are handled by whoever waits on the dispatcher: at once what must not wait (data, aborts,
strangers, pings), in order of arrival what takes time (loads, runs, measurements).
"""

from __future__ import annotations

import logging
import math
import os
import platform
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable
from weakref import WeakValueDictionary

import msgspec
import numpy as np
import psutil

from fogconv.cluster.executor.executors import executor
from fogconv.cluster.executor.interface import Build, Runnable
from fogconv.cluster.executor.mailbox import Inbox, RunAborted, RunMailbox
from fogconv.cluster.executor.microbenchmark import conv_seconds, copy_bytes_per_s
from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.protocol.lifecycle import Event, Lifecycle, State
from fogconv.cluster.protocol.version import VERSION
from fogconv.cluster.transport.dispatcher import Dispatcher
from fogconv.cluster.transport.endpoint import Arrival, Endpoint, Loss, Peer
from fogconv.cluster.transport.endpoint import Event as Incoming
from fogconv.cluster.worker.system import temperature_c, throttled
from fogconv.cluster.worker.weight_cache import WeightStore
from fogconv.errors import (
    ClusterError,
    FogconvError,
    WireError,
    WorkerFailedError,
    WorkerLostError,
    WorkerMemoryError,
)
from fogconv.ir import program as ir

log = logging.getLogger("fogconv.worker")

IDLE_S = 3600.0
"""How long an idle worker sleeps at most: nothing depends on it."""
MAX_TASKS = 4096
"""More loads and runs than this in a queue are a master gone wild."""
MAX_PING_BYTES = 64 << 20
MASTER_RANK = 0


@runtime_checkable
class Shares(Protocol):
    """An executable whose arrays stay from run to run, and may be shared with other programs'."""

    arrays: Any


@dataclass(slots=True)
class Loading:
    """A program that waits for weights."""

    request: int
    number: int
    program: ir.Program
    missing: set[str]


@dataclass
class Mastery:
    """What belongs to one master's session, and goes when it leaves."""

    peer: Peer
    hello: m.Hello
    inbox: Inbox = field(default_factory=Inbox)
    tasks: deque[tuple[m.AnyMessage, tuple[Frame, ...]]] = field(default_factory=deque)
    addresses: m.Peers = field(default_factory=lambda: m.Peers({}))
    outgoing: dict[int, Peer] = field(default_factory=dict)
    incoming: dict[Peer, int] = field(default_factory=dict)
    loading: list[Loading] = field(default_factory=list)
    programs: dict[int, Runnable] = field(default_factory=dict)
    peers: dict[int, frozenset[int]] = field(default_factory=dict)
    """Of each program, the ranks that it exchanges messages with."""
    arrays: WeakValueDictionary[str, Any] = field(default_factory=WeakValueDictionary)
    run: int = 0
    partners: frozenset[int] = frozenset()
    """The peers of the program that runs."""
    over: bool = False


class Worker:
    """One worker on one endpoint. ``serve`` is its life; ``stop`` and ``attend`` may be called from other threads.

    ``memory_limit_bytes`` is for the whole process (0: none). ``keep_weights``: for the next load and the next master.
    ``once``: stop when the first master leaves. ``masters``: the public keys of those who may be one; None: anybody.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        build: Build | None = None,
        threads: int = 1,
        memory_limit_bytes: int = 0,
        keep_weights: bool = True,
        once: bool = False,
        masters: frozenset[str] | None = None,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.life = Lifecycle()
        self.store = WeightStore()
        self.threads = threads
        self.memory_limit_bytes = memory_limit_bytes
        self._endpoint = endpoint
        self._build = build or executor()
        self._keep_weights = keep_weights
        self._once = once
        self._masters = masters
        self._clock_ns = clock_ns
        self._board = Dispatcher(endpoint, self._handle)
        self._mastery: Mastery | None = None
        self._isa = _isa()
        self._started = time.monotonic()
        self._runs = 0
        self._sent_bytes = 0
        self._received_bytes = 0
        self._complained: set[Peer] = set()

    def serve(self) -> None:
        """Serve masters, one after the other, until ``stop``; then close the endpoint."""
        try:
            while self.life.state is not State.STOPPED:
                task = self._board.wait(self._next, IDLE_S)
                if task is not None and task[0] is not None:
                    self._do(*task)
        finally:
            self._endpoint.close()

    def stop(self) -> None:
        """End ``serve`` as soon as the current step lets it. The master is told."""
        with self._board.lock:
            self._leave("the worker was stopped")
            self.life.apply(Event.STOP)
        self._board.changed()

    def attend(self) -> None:
        """Handle what came in while ``serve`` is busy with a kernel: refusals, pings, aborts."""
        self._board.drain()

    # Arrivals, under the dispatcher's lock

    def _handle(self, event: Incoming) -> None:
        if isinstance(event, Loss):
            self._lose(event)
            return
        try:
            message, payloads = codec.decode(event.frames)
        except WireError as error:
            if event.peer not in self._complained and len(self._complained) < 1000:
                self._complained.add(event.peer)
                log.warning("dropped a message of a stranger or a broken peer: %s", error)
                self._send(event.peer, m.Refused(f"this worker can't read your messages: {error}"))
            return
        if self.life.state is State.STOPPED:
            return
        mastery = self._mastery
        match message:
            case m.Data():
                if mastery is not None:
                    rank = MASTER_RANK if event.peer == mastery.peer else mastery.incoming.get(event.peer)
                    if rank is not None:
                        mastery.inbox.put(message.run, rank, message.tag, payloads[0])
            case m.Hello():
                self._greet(event, message)
            case m.Attach():
                # Where the master named keys, a peer must have proven that rank's.
                key = None if mastery is None else mastery.addresses.keys.get(message.rank)
                proven = key is None or key == event.credential
                if mastery is not None and message.session == mastery.hello.session and proven:
                    mastery.incoming[event.peer] = message.rank
            case m.StatusQuery():
                self._send(event.peer, self._status(message))
            case _ if mastery is None or event.peer != mastery.peer:
                if event.peer not in self._complained and len(self._complained) < 1000:
                    self._complained.add(event.peer)
                    self._send(event.peer, m.Refused("this worker does not serve you; say Hello first"))
            case m.Bye():
                log.info("master %s left", mastery.hello.name)
                self._leave("the master left")
            case m.Peers():
                # Somebody came, or came back: a link to who was there before would be to the wrong one.
                for peer in mastery.outgoing.values():
                    self._endpoint.disconnect(peer)
                mastery.outgoing.clear()
                mastery.addresses = message
                self._endpoint.admit(frozenset(message.keys.values()))
            case m.Abort():
                mastery.inbox.fail(message.run, RunAborted(f"the master aborted run {message.run}"))
            case m.Ping():
                self._pong(event.peer, message, payloads[0])
            case m.Load() | m.Weight() | m.Unload() | m.Run() | m.Measure():
                if len(mastery.tasks) >= MAX_TASKS:
                    self._leave(f"more than {MAX_TASKS} requests wait")
                else:
                    mastery.tasks.append((message, tuple(payloads)))
            case _:
                log.warning("a master does not send %s", type(message).__name__)

    def _greet(self, event: Arrival, hello: m.Hello) -> None:
        if self._masters is not None and event.credential not in self._masters:
            self._send(event.peer, m.Refused("your key is not listed among this worker's masters"))
            return
        mastery = self._mastery
        # The same session's token does not help: all its workers know it, and a replay would take this one away.
        if mastery is not None and mastery.peer != event.peer and self._endpoint.probe(mastery.peer):
            self._send(event.peer, m.Refused(f"this worker is serving another master ({mastery.hello.name})"))
            log.warning("refused master %s: serving %s", hello.name, mastery.hello.name)
            return
        if mastery is not None:
            self._leave("its master is gone")
        self._mastery = Mastery(event.peer, hello)
        self.life.apply(Event.WELCOME)
        log.info("serving master %s as rank %d of %d", hello.name, hello.rank, hello.ranks)
        welcome = m.Welcome(
            hello.rank,
            platform.node(),
            os.getpid(),
            self.threads,
            self.memory_limit_bytes,
            _process_bytes(),
            self._isa,
            VERSION,
        )
        self._send(event.peer, welcome)

    def _lose(self, loss: Loss) -> None:
        mastery = self._mastery
        self._complained.discard(loss.peer)
        if mastery is None:
            return
        if loss.peer == mastery.peer:
            log.warning("master %s is lost: %s", mastery.hello.name, loss.reason)
            self._leave(f"the master is lost: {loss.reason}")
        mastery.incoming.pop(loss.peer, None)
        for rank in [rank for rank, peer in mastery.outgoing.items() if peer == loss.peer]:
            del mastery.outgoing[rank]
            # What was on its way is lost, and the master may not have noticed anything: a link can fail alone. Or it has,
            # and this run is over others already.
            if mastery.run and rank in mastery.partners:
                lost = WorkerLostError(f"rank {mastery.hello.rank} lost its link to rank {rank}: {loss.reason}", rank)
                mastery.inbox.fail(mastery.run, lost)

    def _leave(self, reason: str) -> None:
        """Forget the master and all that is its own; weights stay."""
        mastery, self._mastery = self._mastery, None
        if mastery is None:
            return
        mastery.over = True
        mastery.tasks.clear()
        mastery.programs.clear()
        mastery.inbox.fail(mastery.run, RunAborted(reason))
        for peer in mastery.outgoing.values():
            self._endpoint.disconnect(peer)
        self._endpoint.admit(frozenset())
        self._send(mastery.peer, m.Bye())
        self.life.apply(Event.LOSS)
        self.life.apply(Event.STOP if self._once else Event.REJOIN)

    def _pong(self, peer: Peer, ping: m.Ping, payload: Frame) -> None:
        received = self._clock_ns()
        answer = payload if ping.echo else bytes(min(ping.reply_bytes, MAX_PING_BYTES))
        self._send(peer, m.Pong(ping.request, received, self._clock_ns()), answer)

    def _status(self, query: m.StatusQuery) -> m.Status:
        mastery = self._mastery
        return m.Status(
            query.request,
            self.life.state.value,
            mastery.hello.name if mastery else "",
            time.monotonic() - self._started,
            self._runs,
            len(mastery.programs) if mastery else 0,
            len(self.store),
            self.store.bytes,
            _process_bytes(),
            self.memory_limit_bytes,
            self._sent_bytes,
            self._received_bytes,
            self.threads,
            temperature_c(),
            throttled(),
        )

    # Tasks, one after the other, on the serving thread

    def _next(self) -> tuple[Mastery | None, m.AnyMessage | None, tuple[Frame, ...]] | None:
        if self.life.state is State.STOPPED:
            return (None, None, ())
        mastery = self._mastery
        if mastery is None or not mastery.tasks:
            return None
        return (mastery, *mastery.tasks.popleft())

    def _do(self, mastery: Mastery | None, task: m.AnyMessage | None, payloads: tuple[Frame, ...]) -> None:
        if mastery is None:
            return
        request = getattr(task, "request", 0)
        run = task.run if isinstance(task, m.Run) else 0
        try:
            match task:
                case m.Run():
                    self._run(mastery, task)
                case m.Load():
                    self._load(mastery, task, payloads[0])
                case m.Weight():
                    self._keep(mastery, task, payloads[0])
                case m.Unload():
                    mastery.programs.pop(task.program, None)
                    mastery.peers.pop(task.program, None)
                case m.Measure():
                    seconds = conv_seconds(task.specs, self._build, threads=self.threads, repeats=task.repeats)
                    self._answer(mastery, m.Measured(request, seconds, copy_bytes_per_s()))
        except RunAborted as error:
            log.info("run %d aborted: %s", run, error)
        except FogconvError as error:
            self._fail(mastery, request, run, error)
        except MemoryError as error:
            self._fail(mastery, request, run, WorkerMemoryError(f"out of memory: {error}"))
        except Exception as error:
            log.exception("a bug, or a master that sent nonsense")
            self._fail(mastery, request, run, WorkerFailedError(f"{type(error).__name__}: {error}"))

    def _run(self, mastery: Mastery, task: m.Run) -> None:
        def post(to: int, tag: int, payload: Frame) -> None:
            self._endpoint.send(self._outgoing(mastery, to), codec.encode(m.Data(task.run, tag), payload))

        with self._board.lock:
            if mastery.over:
                return
            mastery.run, mastery.partners = task.run, mastery.peers.get(task.program, frozenset())
            self.life.apply(Event.RUN)
        mailbox = RunMailbox(self._board, mastery.inbox, task.run, post, mastery.hello.timeout_s)
        try:
            failure = mastery.inbox.failure(task.run)
            if failure is not None:
                raise failure
            executable = mastery.programs.get(task.program)
            if executable is None:
                raise ClusterError(f"no program {task.program} is loaded here")
            executable.run(mailbox)
        finally:
            with self._board.lock:
                mastery.inbox.close_through(task.run)
                mastery.run = 0
                if not mastery.over:
                    self.life.apply(Event.FINISH)
                self._runs += 1
                self._sent_bytes += mailbox.sent_bytes
                self._received_bytes += mailbox.received_bytes
        times = np.ascontiguousarray(executable.times, np.int64)
        self._answer(mastery, m.Done(task.run, mailbox.sent_bytes, mailbox.received_bytes), times.tobytes())
        if isinstance(executable, Shares):
            executable.arrays.settle()

    def _outgoing(self, mastery: Mastery, rank: int) -> Peer:
        if rank == MASTER_RANK:
            return mastery.peer
        peer = mastery.outgoing.get(rank)
        if peer is None:
            address = mastery.addresses.addresses.get(rank)
            if address is None:
                raise ClusterError(f"the master named no address for rank {rank}")
            peer = self._endpoint.connect(address, mastery.addresses.keys.get(rank))
            mastery.outgoing[rank] = peer
            self._send(peer, m.Attach(mastery.hello.session, mastery.hello.rank))
        return peer

    def _load(self, mastery: Mastery, task: m.Load, payload: Frame) -> None:
        try:
            program = ir.decode(bytes(payload))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise WireError(f"a malformed program: {error}") from error
        missing = {key for key in program.weights if key not in self.store}
        self._check_memory(program, missing)
        mastery.loading.append(Loading(task.request, task.program, program, missing))
        self._answer(mastery, m.Missing(task.request, tuple(sorted(missing))))
        self._build_complete(mastery)

    def _keep(self, mastery: Mastery, task: m.Weight, payload: Frame) -> None:
        if not any(task.key in loading.missing for loading in mastery.loading) and task.key not in self.store:
            raise WireError(f"weights {task.key} came that no program waits for")
        try:
            self.store.put(task.key, task.shape, payload)
        except WireError as error:
            for loading in [loading for loading in mastery.loading if task.key in loading.missing]:
                mastery.loading.remove(loading)
                self._fail(mastery, loading.request, 0, error)
            return
        self._answer(mastery, m.Stored(task.key))
        for loading in mastery.loading:
            loading.missing.discard(task.key)
        self._build_complete(mastery)

    def _build_complete(self, mastery: Mastery) -> None:
        for loading in [loading for loading in mastery.loading if not loading.missing]:
            mastery.loading.remove(loading)
            begin = time.perf_counter()
            program = loading.program
            weights = {key: self.store[key] for key in program.weights}
            try:
                executable = self._build(program, weights, threads=self.threads)
            except FogconvError as error:
                self._fail(mastery, loading.request, 0, error)
                continue
            except Exception as error:  # the master waits for an answer to the load, not to what completed it
                log.exception("a program can't be bound")
                self._fail(mastery, loading.request, 0, WorkerFailedError(f"{type(error).__name__}: {error}"))
                continue
            if program.shares and isinstance(executable, Shares):
                executable.arrays = mastery.arrays.setdefault(program.shares, executable.arrays)
            with self._board.lock:
                if not mastery.over:
                    mastery.programs[loading.number] = executable
                    mastery.peers[loading.number] = program.peers
            # Whoever is lost has no address; the program may be for when it is back.
            for rank in sorted(program.peers & mastery.addresses.addresses.keys() - {mastery.hello.rank}):
                self._outgoing(mastery, rank)
            self._trim(mastery)
            seconds = time.perf_counter() - begin
            loaded = m.Loaded(loading.request, loading.number, executable.memory_bytes, _process_bytes(), seconds)
            log.info("program %d is ready after %.2f s, %.1f MB", loading.number, seconds, executable.memory_bytes / 1e6)
            self._answer(mastery, loaded)

    def _check_memory(self, program: ir.Program, missing: set[str]) -> None:
        """Raise WorkerMemoryError where what the program needs is over the limit, before anything is shipped.

        Weights count twice, as they come and as the kernels pack them; weights that nobody needs now count as free.
        """
        if not self.memory_limit_bytes:
            return
        shard = sum(4 * math.prod(shape) for shape in program.weights.values())
        arriving = sum(4 * math.prod(program.weights[key]) for key in missing)
        buffers = buffer_bytes(program)
        free = self.memory_limit_bytes - _process_bytes()
        needed = shard + arriving + buffers
        if needed > free:
            free += self.store.evict(needed - free, keep=program.weights)
        if needed > free:
            raise WorkerMemoryError(
                f"the shard needs {needed / 1e6:.0f} MB ({arriving / 1e6:.0f} MB of weights to come, "
                f"{shard / 1e6:.0f} MB packed, {buffers / 1e6:.0f} MB of maps), but {max(0, free) / 1e6:.0f} MB are left of "
                f"this worker's limit of {self.memory_limit_bytes / 1e6:.0f} MB: give it less work, or raise --memory"
            )

    def _trim(self, mastery: Mastery) -> None:
        """After the kernels packed their weights, keep the plain ones only where there is room."""
        waiting = {key for loading in mastery.loading for key in loading.program.weights}
        if not self._keep_weights:
            self.store.evict(self.store.bytes, keep=waiting)
        elif self.memory_limit_bytes:
            self.store.evict(_process_bytes() - self.memory_limit_bytes, keep=waiting)

    # Answers

    def _fail(self, mastery: Mastery, request: int, run: int, error: FogconvError) -> None:
        log.error("request %d, run %d: %s", request, run, error)
        self._answer(mastery, m.Failed(request, run, type(error).__name__, str(error)[:4000]))

    def _answer(self, mastery: Mastery, message: m.AnyMessage, *payloads: Frame) -> None:
        if not mastery.over:
            self._send(mastery.peer, message, *payloads)

    def _send(self, peer: Peer, message: m.AnyMessage, *payloads: Frame) -> None:
        self._endpoint.send(peer, codec.encode(message, *payloads))


def buffer_bytes(program: ir.Program) -> int:
    """What a program's buffers take in the blocked layout, if none shares memory with another, and its plain arrays."""
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


def _process_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def _isa() -> str:
    from fogconv.kernels.codegen.isa import host_isa

    return host_isa().name
