"""Workers: the workers of a session: present and lost workers, their return, and their answers to requests.

A request is numbered by the master and waits for its answer; answers without a request are dropped. A worker's presence
is stored only in its life (`fogconv.cluster.protocol.lifecycle`). All methods take the dispatcher's lock where they need
it; ``apply`` and those under "Arrivals" are called with it held.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from fogconv.cluster.protocol import codec, lifecycle
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.clock import PING_ROUNDS, best_offset
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.protocol.lifecycle import Master, Stage
from fogconv.cluster.session.worker_record import WorkerInfo, WorkerRecord, failure_of, loss_message
from fogconv.cluster.transport.dispatcher import Dispatcher
from fogconv.cluster.transport.endpoint import Endpoint, Peer
from fogconv.errors import ConnectError, RefusedError, TransportTimeout, WireError, WorkerLostError

log = logging.getLogger("fogconv.session")

T = TypeVar("T")

INVITE_EVERY_S = 0.25
"""A worker that refused, or whose connection broke, is invited again no sooner."""
UNASKED = 0
"""The number of a request whose answer is dropped: that there is one is enough."""
SILENT = "it has sent nothing for {:.0f} s, though its connection is open"


OfRuns = lifecycle.AbortRuns | lifecycle.FailRuns | lifecycle.DoWithout


class Workers:
    """``hello(rank)`` returns a worker's greeting; ``on_runs`` receives the effects on its runs, with the lock held."""

    def __init__(
        self,
        endpoint: Endpoint,
        board: Dispatcher,
        addresses: Sequence[str],
        keys: Sequence[str | None],
        *,
        master: Master,
        hello: Callable[[int], m.Hello],
        on_runs: Callable[[WorkerRecord, OfRuns], None],
        timeout_s: float,
    ) -> None:
        self.records = {
            rank: WorkerRecord(rank, address, key, master)
            for rank, (address, key) in enumerate(zip(addresses, keys, strict=True), start=1)
        }
        self.rank_of: dict[Peer, int] = {}
        self.shipping: dict[int, set[str]] = {}
        """Per rank the weights that were sent,"""
        self.stored: dict[int, set[str]] = {}
        """and those of them that it has acknowledged."""
        self.clocks_at = 0.0
        self._endpoint = endpoint
        self._board = board
        self._hello = hello
        self._master = master
        self._on_runs = on_runs
        self._timeout_s = timeout_s
        self._request = 0
        self._asked: set[tuple[int, int]] = set()
        self._replies: dict[tuple[int, int, type], tuple[m.AnyMessage, int]] = {}

    @property
    def infos(self) -> tuple[WorkerInfo, ...]:
        """The workers that are present and know the others, by rank."""
        there = (record for record in self.records.values() if record.joined and not record.service.away)
        return tuple(record.info for record in there if record.info is not None)

    @property
    def lost(self) -> frozenset[int]:
        return frozenset(rank for rank, record in self.records.items() if record.service.stage is Stage.LOST)

    @property
    def reconnects(self) -> int:
        """How often the workers have reconnected their links to each other since the last successful run."""
        return max((record.service.reconnects for record in self.records.values()), default=0)

    def apply(self, record: WorkerRecord, event: lifecycle.Event) -> None:
        """Apply an event to a worker's life, and carry out its effects."""
        record.life, effects = lifecycle.handle(record.life, event)
        for effect in effects:
            match effect:
                case lifecycle.SayHello():
                    record.invited = time.monotonic()
                    record.peer = self._endpoint.connect(record.address, record.key)
                    self.rank_of[record.peer] = record.rank
                    self.send(record, self._hello(record.rank))
                case lifecycle.SayPeers():
                    self.send(record, self._peers())
                case lifecycle.SayBye():
                    self.send(record, m.Bye())
                case lifecycle.Forget():
                    self._forget(record)
                case lifecycle.AbortRuns() | lifecycle.FailRuns() | lifecycle.DoWithout():
                    self._on_runs(record, effect)

    def require(self, rank: int, request: int = 0) -> None:
        """Raises WorkerLostError unless this worker is present and, with a request, has been since it received that."""
        record = self.records[rank]
        if not record.joined or (request and (rank, request) not in self._asked):
            raise WorkerLostError(loss_message(record), rank)

    # Joining and rejoining

    def join(self, timeout_s: float) -> None:
        """Invite all, and wait for them. Raises ConnectError, RefusedError."""
        joining = list(self.records.values())
        with self._board.lock:
            for record in joining:
                self.apply(record, lifecycle.Invited(self._master))
        deadline = time.monotonic() + timeout_s
        self._await(joining, timeout_s)
        for record in joining:
            if record.refusal:
                raise RefusedError(f"worker {record.rank} at {record.address} refused: {record.refusal}")
            if not record.joined:
                waited = timeout_s - max(0.0, deadline - time.monotonic())
                why = record.loss or self._endpoint.diagnose(record.address)
                why = f" ({why})" if why else ""
                hint = "" if record.loss else ": is a fogconv-worker running there, and is the port open?"
                raise ConnectError(
                    f"worker {record.rank} at {record.address} did not answer within {waited:.1f} s{why}{hint}"
                )
        if joining:
            self.introduce()
            self.acquaint(record.rank for record in joining if record.joined)

    def rejoin(self, timeout_s: float) -> frozenset[int]:
        """See Session.rejoin."""
        now = time.monotonic()
        with self._board.lock:
            for rank in self.lost:
                record = self.records[rank]
                if now - record.invited >= INVITE_EVERY_S or timeout_s:
                    self.apply(record, lifecycle.Invited(self._master))
        away = [record for record in self.records.values() if record.service.away]
        if not away:
            return frozenset()
        if timeout_s:
            self._await(away, timeout_s)
        else:
            self._board.drain()
        with self._board.lock:
            back = frozenset(record.rank for record in away if record.joined)
            for rank in back:
                self.apply(self.records[rank], lifecycle.TakenBack(self._master))
        if back:
            self.introduce()
            if timeout_s:
                self.acquaint(back)
        return back - self.lost

    def _await(self, records: Sequence[WorkerRecord], timeout_s: float) -> None:
        def all_answered() -> bool | None:
            return True if all(record.service.stage is not Stage.JOINING for record in records) else None

        self._board.wait(all_answered, timeout_s)

    def introduce(self) -> None:
        """Send all workers the list of present workers."""
        peers = self._peers()
        for record in self.records.values():
            if record.joined:
                self.send(record, peers)

    def reconnect(self) -> None:
        """See Session.reconnect."""
        with self._board.lock:
            for record in self.records.values():
                if record.joined:
                    self.apply(record, lifecycle.Reconnected(self._master))
        self.acquaint(())

    def _peers(self) -> m.Peers:
        present = [record for record in self.records.values() if record.joined]
        return m.Peers(
            {record.rank: record.address for record in present},
            {record.rank: record.key for record in present if record.key is not None},
        )

    def acquaint(self, ranks: Iterable[int]) -> None:
        """Measure the clocks of those that joined. With keys all workers are pinged: an answer shows that the list of
        peers has arrived, and peers may connect."""
        keys = any(record.key is not None for record in self.records.values())
        self.synchronise([info.rank for info in self.infos] if keys else sorted(ranks))

    def synchronise(self, ranks: Iterable[int]) -> None:
        """Measure workers' clocks against the master's."""
        for rank in ranks:
            try:
                offset = best_offset([self.exchange(rank) for _ in range(PING_ROUNDS)])
            except WorkerLostError:
                continue
            record = self.records[rank]
            if record.info is not None:
                record.info = replace(record.info, clock_offset_ns=offset.offset_ns, clock_error_ns=offset.error_ns)
        self.clocks_at = time.monotonic()

    def set_memory(self, rank: int, memory_bytes: int) -> None:
        """The memory of a worker's process, as it reported it."""
        record = self.records[rank]
        if record.info is not None:
            record.info = replace(record.info, memory_bytes=memory_bytes)

    # Requests

    def send(
        self, record: WorkerRecord, message: m.AnyMessage, *payloads: Frame, ordered: bool = True, behind: bool = False
    ) -> None:
        self._endpoint.send(record.peer, codec.encode(message, *payloads), ordered=ordered, behind=behind)

    def post(self, rank: int, message: m.AnyMessage, *payloads: Frame, ordered: bool = True, behind: bool = False) -> None:
        """``send`` to a present worker. Raises WorkerLostError."""
        with self._board.lock:
            self.require(rank)
            self.send(self.records[rank], message, *payloads, ordered=ordered, behind=behind)

    def next_request(self, rank: int) -> int:
        """The number of a new request to this worker."""
        with self._board.lock:
            self._request += 1
            self._asked.add((rank, self._request))
            return self._request

    def reply(self, rank: int, request: int, kind: type[T], timeout_s: float) -> tuple[T, int]:
        """The answer to a request, and when it was handled (perf_counter_ns).

        Raises the error of a Failed, TransportTimeout, WorkerLostError.
        """

        return self._settled(self._board.wait(self._found, timeout_s, rank, request, kind), rank, request, kind, timeout_s)

    def outcome(self, rank: int, request: int, kind: type[T], timeout_s: float) -> T:
        """`reply` for a request that a worker may work on for long.

        It is asked for its status meanwhile. One that sends nothing for the session's ``timeout_s`` is lost, though its
        connection stays open: a byte that a link has changed can leave either end waiting for a message without end.
        """
        record, deadline, asked = self.records[rank], time.monotonic() + timeout_s, 0.0
        while True:
            left = deadline - time.monotonic()
            found = self._board.wait(self._found, min(left, self._timeout_s), rank, request, kind)
            if found is not None or left <= self._timeout_s:
                return self._settled(found, rank, request, kind, timeout_s)[0]
            with self._board.lock:
                if record.last_message < asked:
                    self.lose(record, SILENT.format(time.monotonic() - record.last_message))
                elif record.joined:
                    asked = time.monotonic()
                    self.send(record, m.StatusQuery(UNASKED))

    def _found(self, rank: int, request: int, kind: type) -> tuple[m.AnyMessage, int] | None:
        found = self._replies.pop((rank, request, kind), None) or self._replies.pop((rank, request, m.Failed), None)
        if found is None:
            self.require(rank, request)
        return found

    def _settled(
        self, found: tuple[m.AnyMessage, int] | None, rank: int, request: int, kind: type[T], timeout_s: float
    ) -> tuple[T, int]:
        if kind is not m.Missing or found is None or isinstance(found[0], m.Failed):
            with self._board.lock:
                self._asked.discard((rank, request))
        if found is None:
            raise TransportTimeout(f"worker {rank} did not answer ({kind.__name__}) within {timeout_s:g} s")
        message, at_ns = found
        if isinstance(message, m.Failed):
            raise failure_of(message, self.records[rank])
        if not isinstance(message, kind):
            raise WireError(f"worker {rank} answered with {type(message).__name__}, not {kind.__name__}")
        return message, at_ns

    def raise_failure(self, rank: int, request: int) -> None:
        """Raise the error of a Failed, if one was received for this request."""
        found = self._replies.pop((rank, request, m.Failed), None)
        if found is not None and isinstance(found[0], m.Failed):
            raise failure_of(found[0], self.records[rank])

    def exchange(
        self, rank: int, payload: Frame = b"", *, echo: bool = False, reply_bytes: int = 0, ordered: bool = True
    ) -> tuple[int, int, int, int]:
        """(sent here, received there, sent there, received here), each on its own clock, in ns.

        What is not ``ordered`` takes the way that messages of runs take.
        """
        request = self.next_request(rank)
        sent = time.perf_counter_ns()
        self.post(rank, m.Ping(request, echo, reply_bytes), payload, ordered=ordered)
        pong, received = self.reply(rank, request, m.Pong, self._timeout_s)
        return (sent, pong.received_ns, pong.sent_ns, received)

    # Arrivals

    def take(self, record: WorkerRecord, message: m.AnyMessage) -> None:
        """Handle a worker's message, except those that belong to a run."""
        match message:
            case m.Welcome():
                self._welcome(record, message)
            case m.Refused():
                if record.service.stage is Stage.JOINING:
                    self.apply(record, lifecycle.Refused(self._master, message.reason))
                else:
                    self.lose(record, message.reason)
            case m.Stored():
                if message.key in self.shipping.get(record.rank, ()):
                    self.stored.setdefault(record.rank, set()).add(message.key)
            case m.Bye():
                if record.joined:  # else it leaves the session that it was lost from
                    self.lose(record, "it was stopped")
            case m.Missing() | m.Loaded() | m.Pong() | m.Measured() | m.Status() | m.Failed():
                if (record.rank, message.request) in self._asked:
                    self._replies[record.rank, message.request, type(message)] = (message, time.perf_counter_ns())
            case _:
                log.warning("worker %d sent %s, which workers do not send", record.rank, type(message).__name__)

    def misread(self, record: WorkerRecord, error: WireError) -> None:
        """A worker sent a message that can't be decoded."""
        if record.service.stage is Stage.JOINING:
            self.apply(record, lifecycle.Refused(self._master, str(error)))
        else:
            self.lose(record, f"it sent an invalid message: {error}")

    def lose(self, record: WorkerRecord, reason: str) -> None:
        """This worker is lost; drop its link."""
        if not record.life.stopped:
            self.apply(record, lifecycle.Lost(self._master, reason))

    def stop(self, reason: str) -> None:
        """Release all workers."""
        for record in self.records.values():
            self.apply(record, lifecycle.Stopped(reason))

    def _forget(self, record: WorkerRecord) -> None:
        self.rank_of.pop(record.peer, None)
        self._endpoint.disconnect(record.peer)
        self.stored.pop(record.rank, None)
        self.shipping.pop(record.rank, None)
        self._asked = {(rank, request) for rank, request in self._asked if rank != record.rank}
        self._replies = {key: reply for key, reply in self._replies.items() if key[0] != record.rank}
        if not record.refusal:
            log.warning("%s", loss_message(record))

    def _welcome(self, record: WorkerRecord, message: m.Welcome) -> None:
        if record.service.stage is not Stage.JOINING:
            return
        self.apply(record, lifecycle.Welcomed(self._master))
        record.info = WorkerInfo(
            record.rank,
            record.address,
            message.host,
            message.pid,
            message.threads,
            message.memory_limit_bytes,
            message.memory_bytes,
            message.isa,
            message.software,
            message.machine,
            message.kernels,
            multiplies=message.multiplies,
            vectors=message.vectors,
        )
