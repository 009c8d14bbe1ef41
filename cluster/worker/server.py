"""Worker: serves masters; holds weights, loads programs, runs them, answers.

It does not depend on a model. The thread that waits on the dispatcher handles arrivals: urgent ones (data, aborts,
unknown peers, pings) at once, those that take time (loads, runs, measurements) in order of arrival. Whom it serves:
`fogconv.cluster.worker.masters`.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fogconv.cluster.executor.executors import executor
from fogconv.cluster.executor.interface import Build, OwnKernels, Runnable, Shares
from fogconv.cluster.executor.mailbox import RunAborted, Ways
from fogconv.cluster.executor.microbenchmark import copy_bytes_per_s, step_times
from fogconv.cluster.protocol import codec, lifecycle
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.protocol.lifecycle import Life
from fogconv.cluster.protocol.version import VERSION
from fogconv.cluster.transport.dispatcher import Dispatcher
from fogconv.cluster.transport.endpoint import Endpoint, Loss, Peer
from fogconv.cluster.transport.endpoint import Event as Incoming
from fogconv.cluster.transport.inproc import SCHEME as INPROC
from fogconv.cluster.worker.checks.measurement_check import check_measurement
from fogconv.cluster.worker.kernel_facts import KernelFacts, kernel_facts
from fogconv.cluster.worker.machine import LoadMeter, OtherWork, machine
from fogconv.cluster.worker.master_session import Loading, MasterSession, Task
from fogconv.cluster.worker.masters import Masters
from fogconv.cluster.worker.program_loader import ProgramLoader, failed, failure_of
from fogconv.cluster.worker.scheduling.active_tasks import DOING, ActiveTasks
from fogconv.cluster.worker.scheduling.turns import TurnMailbox, Turns
from fogconv.cluster.worker.system import process_bytes, throttled
from fogconv.errors import ClusterError, FogconvError, WireError
from fogconv.ir.arrays import Array
from fogconv.ir.layout import MASTER
from fogconv.ir.program import Program
from fogconv.storage.swap_file import SwapFolder

if TYPE_CHECKING:
    from fogconv.cluster.transport.channel import Channel

log = logging.getLogger("fogconv.worker")

IDLE_S = 3600.0
"""The longest sleep of an idle worker; nothing depends on it."""
MAX_TASKS = 4096
"""The most loads and runs in a master's queue; more are treated as an error."""
MAX_PING_BYTES = 64 << 20
MAX_TASK_BYTES = 64 << 20
"""With so many bytes of payload in its queue a master sends no more: it ships weights in windows of half of this."""
MOST_HANDS = 64
"""The most threads for runs that overlap."""
HAND_IDLE_S = 2.0
"""A thread beside the first one ends when there was nothing to do for so long."""


class Worker:
    """One worker on one endpoint. ``serve`` is its life; ``stop`` and ``attend`` may be called from other threads.

    ``memory_limit_bytes`` is for the whole process (0: none). ``keep_weights``: for the next load and the next master.
    ``swap``: where weights go that a program swaps, by default a folder in this user's cache.
    ``helpers``: how many processes may compile beside this one. ``facts``: of its kernels, where they are known.
    ``once``: stop when the first master leaves. ``masters``: the public keys of allowed masters; None: any master.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        build: Build | None = None,
        threads: int = 1,
        memory_limit_bytes: int = 0,
        keep_weights: bool = True,
        swap: SwapFolder | None = None,
        once: bool = False,
        masters: frozenset[str] | None = None,
        helpers: int = 0,
        facts: KernelFacts | None = None,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.threads = threads
        self.memory_limit_bytes = memory_limit_bytes
        self._endpoint = endpoint
        self.loader = ProgramLoader(
            build or _bound,
            threads=threads,
            memory_limit_bytes=memory_limit_bytes,
            keep_weights=keep_weights,
            swap=swap,
            helpers=helpers,
            adopt=self._adopt,
        )
        self._listed = masters is not None
        self._masters = Masters(endpoint, Life(once=once), masters, self._welcome)
        self._clock_ns = clock_ns
        self._board = Dispatcher(endpoint, self._handle, self._drop)
        self._facts = facts or _facts_of(self.loader.build)
        self._started = time.monotonic()
        self._runs = 0
        self._sent_bytes = 0
        self._received_bytes = 0
        self._active = ActiveTasks()
        self._hands: list[threading.Thread] = []
        self._idle = 0
        self._turns = Turns()
        self._misread = 0
        self._meter = LoadMeter()
        process_bytes()  # while there are descriptors for it

    @property
    def life(self) -> Life:
        return self._masters.life

    def serve(self) -> None:
        """Serve masters, one after the other, until ``stop``; then close the endpoint."""
        try:
            while not self.life.stopped:
                self._work(IDLE_S)
        finally:
            for hand in list(self._hands):
                hand.join(HAND_IDLE_S)
            self._endpoint.close()

    def _work(self, idle_s: float) -> bool:
        """Do the next task. False where there was none for so long."""
        with self._board.lock:
            self._idle += 1
        task = self._board.wait(self._next, idle_s)
        with self._board.lock:
            self._idle -= 1
        if task is None or task[0] is None or task[1] is None:
            return False
        try:
            self._do(*task)
        except Exception as error:  # not even the answer could be sent
            with self._board.lock:
                self._masters.give_up(task[0].peer, error)
        return True

    def _hand(self) -> None:
        """A thread for runs that overlap with others."""
        while not self.life.stopped and self._work(HAND_IDLE_S):
            pass
        with self._board.lock:
            self._hands.remove(threading.current_thread())

    def stop(self) -> None:
        """End ``serve`` after the current step, with a message to the master."""
        with self._board.lock:
            self._masters.apply(lifecycle.Stopped("the worker was stopped"))
        self._board.changed()

    def attend(self) -> None:
        """Handle arrivals while ``serve`` is busy with a kernel: refusals, pings, aborts."""
        self._board.drain()

    # Arrivals, under the dispatcher's lock

    def _handle(self, event: Incoming) -> None:
        if isinstance(event, Loss):
            self._masters.lose(event)
            return
        try:
            message, payloads = codec.decode(event.frames)
        except WireError as error:
            if self._masters.complain(event.peer, f"this worker can't read your messages: {error}"):
                self._misread += 1
                if not self._misread & (self._misread - 1):  # the first, the second, the fourth …: they may be a flood
                    log.warning("dropped a message of an unknown or faulty peer (%d so far): %s", self._misread, error)
            return
        if self.life.stopped:
            return
        session = self._masters.sessions.get(event.peer)
        match message:
            case m.Data():
                self._masters.take(event.peer, message, payloads[0])
            case m.Hello():
                self._masters.greet(event, message)
            case m.Attach():
                self._masters.attach(event, message)
            case m.StatusQuery():
                self._masters.send(event.peer, self._status(message))
            case m.Attached():
                if self._masters.dialed(event.peer):
                    self._endpoint.trust(event.peer)
            case m.Refused() if self._masters.dialed(event.peer):
                log.warning("another worker refused a link: %s", message.reason)
                self._endpoint.disconnect(event.peer)
                self._masters.lose(Loss(event.peer, f"it refused the link: {message.reason}"))
            case _ if session is None:
                self._masters.complain(event.peer, "this worker does not serve you; send Hello first")
            case m.Bye():
                log.info("master %s left", session.hello.name)
                self._masters.apply(lifecycle.Left(event.peer, "the master left"))
            case m.Peers():
                self._masters.name_peers(session, message)
            case m.Abort():
                session.inbox.fail(message.run, RunAborted(f"the master aborted run {message.run}"))
            case m.Ping():
                self._pong(event.peer, message, payloads[0])
            case m.Load() | m.Weight() | m.Unload() | m.Run() | m.Measure():
                if len(session.tasks) >= MAX_TASKS:
                    self._masters.apply(lifecycle.Left(event.peer, f"more than {MAX_TASKS} requests wait"))
                elif session.task_bytes > MAX_TASK_BYTES:
                    self._masters.apply(lifecycle.Left(event.peer, f"requests with {session.task_bytes} bytes wait"))
                else:
                    session.add((message, tuple(payloads)))
                    if self._active and not self._idle and self._active.may_begin(session) and len(self._hands) < MOST_HANDS:
                        hand = threading.Thread(target=self._hand, name="fogconv-hand", daemon=True)
                        self._hands.append(hand)
                        hand.start()
            case _:
                log.warning("a master does not send %s", type(message).__name__)

    def _welcome(self, session: MasterSession) -> None:
        welcome = m.Welcome(
            session.hello.rank,
            platform.node(),
            os.getpid(),
            self.threads,
            self.memory_limit_bytes,
            process_bytes(),
            self._facts.isa,
            VERSION,
            machine(),
            self._facts.fingerprint,
            self._facts.multiplies,
            self._facts.vectors,
        )
        self._endpoint.trust(session.peer)
        self._masters.send(session.peer, welcome)
        if self.loader.build is _bound and self._endpoint.scheme != INPROC:
            # While the master plans and measures: the import takes seconds on a small device.
            threading.Thread(target=executor, name="fogconv-import", daemon=True).start()

    def _drop(self, event: Incoming, error: Exception) -> None:
        """An event could not be handled: the peer goes, the worker stays."""
        self._masters.give_up(event.peer, error)

    def _pong(self, peer: Peer, ping: m.Ping, payload: Frame) -> None:
        received = self._clock_ns()
        answer = payload if ping.echo else bytes(min(ping.reply_bytes, MAX_PING_BYTES))
        self._masters.send(peer, m.Pong(ping.request, received, self._clock_ns()), answer, ordered=False)

    def _status(self, query: m.StatusQuery) -> m.Status:
        sessions = self._masters.sessions.values()
        return m.Status(
            query.request,
            f"busy: {self._active.doing}" if self._active else self.life.stage.value,
            ", ".join(session.hello.name for session in sessions),
            time.monotonic() - self._started,
            self._runs,
            sum(len(session.programs) for session in sessions),
            len(self.loader.store),
            self.loader.store.bytes,
            process_bytes(),
            self.memory_limit_bytes,
            self._sent_bytes,
            self._received_bytes,
            self.threads,
            self._meter.load(),
            throttled(),
            self._listed,
        )

    # Tasks, in the order of their arrival; runs of several programs overlap, everything else is done alone

    def _next(self) -> tuple[MasterSession | None, Task | None] | None:
        if self.life.stopped:
            return (None, None)
        for session in self._masters.sessions.values():
            if session.tasks and self._active.may_begin(session):
                return (session, self._active.begin(session))
        return None

    def _do(self, session: MasterSession | None, task: Task | None) -> None:
        if session is None or task is None:
            return
        message, payloads = task
        request = getattr(message, "request", 0)
        run = message.run if isinstance(message, m.Run) else 0

        def proceed() -> None:
            self.attend()  # a worker without a main thread of its own answers at least between two steps
            if self._masters.over(session):
                raise RunAborted("its master is gone")

        doing = DOING[type(message)]
        try:
            match message:
                case m.Run():
                    self._run(session, message)
                case m.Load():
                    for answer in self.loader.load(session, message, payloads[0], proceed):
                        self._masters.answer(session, answer)
                case m.Weight():
                    for answer in self.loader.keep(session, message, payloads[0], proceed):
                        self._masters.answer(session, answer)
                case m.Unload():
                    session.unload(message.program)
                case m.Measure():
                    check_measurement((*message.specs, *message.maps), message.repeats, self.loader.memory_bytes)
                    self._masters.answer(session, self._measured(message, proceed))
        except RunAborted as error:
            log.info("%s aborted: %s", f"run {run}" if run else doing, error)
        except FogconvError as error:
            self._masters.answer(session, failed(request, run, error))
        except Exception as error:  # a bug, or an invalid request of the master
            self._masters.answer(session, failed(request, run, failure_of(error, f"{doing} failed")))
        finally:
            with self._board.lock:
                self._active.end(message)
                others = bool(self._hands)
            if others:
                self._board.changed()

    def _measured(self, asked: m.Measure, proceed: Callable[[], None]) -> m.Measured:
        read_bytes_per_s = self.loader.store.swap.bytes_per_s(asked.disk_bytes, proceed) if asked.disk_bytes else 0.0
        others = OtherWork()
        times = step_times(
            (*asked.specs, *asked.maps),
            self.loader.build,
            threads=self.threads,
            repeats=asked.repeats,
            proceed=proceed,
            meter=LoadMeter(),
        )
        means, fastest = tuple(each.mean_s for each in times), tuple(each.fastest_s for each in times)
        loads = tuple(each.load for each in times)
        return m.Measured(asked.request, means, copy_bytes_per_s(), fastest, others.cores(), loads, read_bytes_per_s)

    def _run(self, session: MasterSession, task: m.Run) -> None:
        def post(to: int, tag: int, payload: Frame) -> None:
            self._endpoint.send(
                self._masters.link_to(session, to), codec.encode(m.Data(task.run, tag), payload), ordered=False
            )

        def channel_to(rank: int) -> Channel | None:
            peer = session.peer if rank == MASTER else session.outgoing.get(rank)
            return None if peer is None else self._endpoint.channel(peer)

        def channel_from(rank: int) -> Channel | None:
            with self._board.lock:
                found = [peer for peer, other in session.incoming.items() if other == rank]
            if rank == MASTER:
                return self._endpoint.channel(session.peer)
            return self._endpoint.channel(found[-1]) if found else None

        with self._board.lock:
            if self._masters.over(session):
                return
            if session.inbox.over(task.run):  # neither data nor an abort would reach it
                raise ClusterError(f"run {task.run} is over, or a later one is: the numbers of runs must rise")
            flight = lifecycle.Flight(task.run, session.partners.get(task.program, frozenset()))
            self._masters.apply(lifecycle.RunBegun(session.peer, flight))
            self._turns.runs += 1
            self._board.recall()  # another run may be waiting in compiled code
        copies = session.runs.get(task.program, 1) > 1
        timeout_s = session.hello.timeout_s
        mailbox = TurnMailbox(
            self._turns,
            self._board,
            session.inbox,
            task.run,
            post,
            timeout_s,
            Ways(channel_to, channel_from, lambda: self._turns.runs == 1),
            copies=copies,
        )
        well = False
        self._turns.take(task.run)
        try:
            failure = session.inbox.failure(task.run)
            if failure is not None:
                raise failure
            executable = session.programs.get(task.program)
            if executable is None:
                raise ClusterError(f"no program {task.program} is loaded here")
            executable.run(mailbox)
            well = True
        finally:
            self._turns.give()
            with self._board.lock:
                self._turns.runs -= 1
                others = self._active.runs_of(session)
                session.inbox.close(task.run)
                session.inbox.close_through(min([run for run in others if run != task.run], default=task.run + 1) - 1)
                if not self._masters.over(session):
                    self._masters.apply(lifecycle.RunEnded(session.peer, task.run, well))
                self._runs += 1
                self._sent_bytes += mailbox.sent_bytes
                self._received_bytes += mailbox.received_bytes
        times = np.ascontiguousarray(executable.times, np.int64)
        self._masters.answer(session, m.Done(task.run, mailbox.sent_bytes, mailbox.received_bytes), times.tobytes())
        if isinstance(executable, Shares):
            executable.arrays.settle()

    def _adopt(self, session: MasterSession, loading: Loading, executable: Runnable) -> None:
        """A program is ready. Its links are opened now, not in its first run."""
        partners = loading.program.peers
        with self._board.lock:
            if not self._masters.over(session):
                session.adopt(loading, executable)
        # A lost rank has no address; the program may be for its return.
        for rank in sorted(partners & session.addresses.addresses.keys() - {session.hello.rank}):
            self._masters.link_to(session, rank)


def _bound(program: Program, weights: Mapping[str, Array], **options: Any) -> Runnable:
    """The program, bound by the usual executor, which is imported now: an idle worker takes half the memory without it."""
    return executor()(program, weights, **options)


def _facts_of(build: Build) -> KernelFacts:
    found = kernel_facts()
    return found._replace(fingerprint=build.kernels, multiplies=(), vectors=None) if isinstance(build, OwnKernels) else found
