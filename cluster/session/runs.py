"""Runs: the inferences of a session that are in flight: started on all workers, waited for, aborted, ended.

The workers' lives store which worker takes part in which run; this module stores the arrivals of each run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.executor.mailbox import Inbox, RunMailbox, Ways
from fogconv.cluster.protocol import codec, lifecycle
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.session.loaded_program import Loaded, RunResult
from fogconv.cluster.session.worker_record import WorkerRecord, failure_of, loss_message
from fogconv.cluster.session.workers import OfRuns, Workers
from fogconv.cluster.transport.dispatcher import Dispatcher
from fogconv.cluster.transport.endpoint import Endpoint
from fogconv.errors import ClusterError, TransportTimeout, WireError, WorkerLostError
from fogconv.ir.layout import MASTER

if TYPE_CHECKING:
    from fogconv.cluster.transport.channel import Channel

MAX_RUNS_IN_FLIGHT = 64
HEARSAY_S = 0.3
"""A worker may notice another's loss a little before the master."""

Inputs = Sequence[NDArray[Any]] | Callable[[], Sequence[NDArray[Any]]]


class Runs:
    """``run`` may be called from several threads, each with a Loaded of its own."""

    def __init__(self, endpoint: Endpoint, board: Dispatcher, workers: Workers) -> None:
        self.last = 0
        """The number of the last run."""
        self._endpoint = endpoint
        self._board = board
        self._workers = workers
        self._inbox = Inbox()
        self._done: dict[tuple[int, int], tuple[m.Done, Frame]] = {}
        self._order = threading.Lock()
        self._under_way = 0

    def run(self, loaded: Loaded, inputs: Inputs, timeout_s: float, meanwhile: Callable[[], None]) -> RunResult:
        """See Session.run."""
        # Workers do runs in the order of the requests, so all must receive these in the same order.
        with self._order:
            run = self._begin(loaded)
            begin_ns = time.perf_counter_ns()
            for rank in loaded.ranks:
                self._workers.send(self._workers.records[rank], m.Run(run, loaded.program))
        mailbox = RunMailbox(
            self._board,
            self._inbox,
            run,
            self._poster(run),
            timeout_s,
            Ways(self._channel, self._channel, lambda: self._under_way == 1),
        )
        well = False
        try:
            given = inputs() if callable(inputs) else inputs
            outputs = [] if loaded.executable is None else loaded.executable.run(mailbox, given, meanwhile)
            latency_s = (time.perf_counter_ns() - begin_ns) * 1e-9
            done = self._await_done(run, loaded, timeout_s, mailbox.skipped)
            well = True
        except WorkerLostError as error:
            self._abort(run, loaded)
            raise self._traced(error, loaded) from error
        except BaseException:
            self._abort(run, loaded)
            raise
        finally:
            self._end(run, loaded, well)
        return self._result(run, loaded, mailbox, outputs, begin_ns, latency_s, done)

    # Arrivals, under the dispatcher's lock

    def take(self, record: WorkerRecord, message: m.Data | m.Done | m.Failed, payload: Frame) -> None:
        """Handle a worker's message about a run; messages about a run that is over, or of another worker, are ignored."""
        run = message.run
        if not record.service.carries(run):
            return
        match message:
            case m.Data():
                self._inbox.put(run, record.rank, message.tag, payload)
            case m.Done():
                self._done[run, record.rank] = (message, payload)
            case m.Failed():
                self._inbox.fail(run, failure_of(message, record))

    def heed(self, record: WorkerRecord, effect: OfRuns) -> None:
        """Handle the runs of a worker that is lost or released."""
        for run in effect.runs:
            match effect:
                case lifecycle.AbortRuns():
                    self._inbox.fail(run, ClusterError(effect.reason))
                case lifecycle.FailRuns():
                    self._inbox.fail(run, WorkerLostError(loss_message(record), record.rank))
                case lifecycle.DoWithout():
                    self._inbox.lose(run, record.rank)

    # Of one run

    def _begin(self, loaded: Loaded) -> int:
        with self._board.lock:
            workers = self._workers
            for rank in loaded.ranks:
                workers.require(rank)
            self.last += 1
            self._under_way += 1
            self._board.recall()  # another run may be waiting in compiled code
            for rank in loaded.ranks:
                flight = lifecycle.Flight(self.last, expendable=rank in loaded.expendable)
                record = workers.records[rank]
                workers.apply(record, lifecycle.RunBegun(record.master, flight))
            return self.last

    def _poster(self, run: int) -> Callable[[int, int, Frame], None]:
        records, send, encode = self._workers.records, self._endpoint.send, codec.encode

        def post(to: int, tag: int, payload: Frame) -> None:
            send(records[to].peer, encode(m.Data(run, tag), payload), ordered=False)

        return post

    def _channel(self, rank: int) -> Channel | None:
        return self._endpoint.channel(self._workers.records[rank].peer)

    def _await_done(
        self, run: int, loaded: Loaded, timeout_s: float, skipped: Collection[int]
    ) -> dict[int, tuple[m.Done, Frame]]:
        """Wait for Done from all ranks except lost ones and those that the run did not wait for; the latter get an
        Abort."""
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
            record = self._workers.records[rank]
            if record.joined and (run, rank) not in self._done:
                self._workers.send(record, m.Abort(run))
        return {rank: self._done[run, rank] for rank in loaded.ranks if (run, rank) in self._done}

    def _traced(self, error: WorkerLostError, loaded: Loaded) -> WorkerLostError:
        """A worker that reports a broken link to another is not the lost one: name the other, if it is lost."""
        workers = self._workers
        if error.rank in workers.lost:
            return error
        found = self._board.wait(lambda: min(workers.lost & loaded.ranks, default=None), HEARSAY_S)
        return error if found is None else WorkerLostError(loss_message(workers.records[found]), found)

    def _abort(self, run: int, loaded: Loaded) -> None:
        for rank in loaded.ranks:
            if self._workers.records[rank].joined:
                self._workers.send(self._workers.records[rank], m.Abort(run))

    def _end(self, run: int, loaded: Loaded, well: bool) -> None:
        with self._board.lock:
            self._under_way -= 1
            self._inbox.close(run)
            for rank in loaded.ranks:
                self._done.pop((run, rank), None)
                record = self._workers.records[rank]
                if record.service.carries(run):  # else it was lost, and may be back
                    self._workers.apply(record, lifecycle.RunEnded(record.master, run, well))

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
            info = self._workers.records[rank].info
            offset = 0 if info is None else info.clock_offset_ns
            if len(payload) != 16 * len(loaded.programs[rank].steps):
                raise WireError(f"rank {rank} reports times of {len(payload)} bytes for its program")
            times[rank] = np.frombuffer(payload, np.int64).reshape(-1, 2) - offset
            sent[rank], received[rank] = message.sent_bytes, message.received_bytes
        return RunResult(run, outputs, begin_ns, latency_s, times, sent, received, tuple(mailbox.events))
