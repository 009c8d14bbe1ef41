"""Workers: the workers of a session: who is there, who is lost, how they come back, and what they answer when asked.

A request is numbered by the master and waits for its answer; what a worker says without being asked is dropped. All
methods take the dispatcher's lock where they need it; those under "Arrivals" are called with it held.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.clock import PING_ROUNDS, best_offset
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.protocol.lifecycle import Event as LifeEvent
from fogconv.cluster.protocol.lifecycle import Lifecycle, State
from fogconv.cluster.session.worker_record import Link, WorkerInfo, failure_of, loss_message
from fogconv.cluster.transport.dispatcher import Dispatcher
from fogconv.cluster.transport.endpoint import Endpoint, Peer
from fogconv.errors import ConnectError, RefusedError, TransportTimeout, WireError, WorkerLostError

log = logging.getLogger("fogconv.session")

T = TypeVar("T")

INVITE_EVERY_S = 0.25
"""A worker that refused, or whose connection broke, is asked again no sooner."""


class Workers:
    """``hello(rank)`` is what a worker is greeted with; ``on_loss`` is called, with the lock held, when one is lost."""

    def __init__(
        self,
        endpoint: Endpoint,
        board: Dispatcher,
        addresses: Sequence[str],
        keys: Sequence[str | None],
        *,
        hello: Callable[[int], m.Hello],
        on_loss: Callable[[Link], None],
        timeout_s: float,
    ) -> None:
        self.links = {
            rank: Link(rank, address, key, None, Lifecycle())
            for rank, (address, key) in enumerate(zip(addresses, keys, strict=True), start=1)
        }
        self.rank_of: dict[Peer, int] = {}
        self.shipping: dict[int, set[str]] = {}
        """Per rank the weights that are on their way,"""
        self.stored: dict[int, set[str]] = {}
        """and those of them that it has acknowledged."""
        self.clocks_at = 0.0
        self._endpoint = endpoint
        self._board = board
        self._hello = hello
        self._on_loss = on_loss
        self._timeout_s = timeout_s
        self._request = 0
        self._asked: set[tuple[int, int]] = set()
        self._replies: dict[tuple[int, int, type], tuple[m.AnyMessage, int]] = {}
        self._away: set[int] = set()

    @property
    def infos(self) -> tuple[WorkerInfo, ...]:
        """The workers that are there and know the others, by rank."""
        there = (link for link in self.links.values() if link.life.joined and link.rank not in self._away)
        return tuple(link.info for link in there if link.info is not None)

    @property
    def lost(self) -> frozenset[int]:
        return frozenset(rank for rank, link in self.links.items() if link.life.state is State.LOST)

    def require(self, rank: int, request: int = 0) -> None:
        """Raises WorkerLostError unless this worker is there, and was so ever since it got that request, if any."""
        link = self.links[rank]
        if not link.life.joined or (request and (rank, request) not in self._asked):
            raise WorkerLostError(loss_message(link), rank)

    # Coming and coming back

    def join(self, timeout_s: float) -> None:
        """Invite all, and wait for them. Raises ConnectError, RefusedError."""
        joining = list(self.links.values())
        with self._board.lock:
            for link in joining:
                self._invite(link)
        deadline = time.monotonic() + timeout_s
        self._await(joining, timeout_s)
        for link in joining:
            if link.refusal:
                raise RefusedError(f"worker {link.rank} at {link.address} refused: {link.refusal}")
            if link.life.state is State.JOINING or (link.life.state is State.LOST and link.loss):
                waited = timeout_s - max(0.0, deadline - time.monotonic())
                why = link.loss or self._endpoint.diagnose(link.address)
                why = f" ({why})" if why else ""
                hint = "" if link.loss else ": is a fogconv-worker running there, and is the port open?"
                raise ConnectError(f"worker {link.rank} at {link.address} did not answer within {waited:.1f} s{why}{hint}")
        if joining:
            self.introduce()
            self.acquaint(link.rank for link in joining if link.life.joined)

    def rejoin(self, timeout_s: float) -> frozenset[int]:
        """See Session.rejoin."""
        now = time.monotonic()
        with self._board.lock:
            for rank in self.lost:
                link = self.links[rank]
                self._away.add(rank)
                if now - link.invited >= INVITE_EVERY_S or timeout_s:
                    link.life.apply(LifeEvent.REJOIN)
                    self._invite(link)
        if not self._away:
            return frozenset()
        away = [self.links[rank] for rank in self._away]
        if timeout_s:
            self._await(away, timeout_s)
        else:
            self._board.drain()
        back = frozenset(link.rank for link in away if link.life.joined)
        if back:
            self._away -= back
            self.introduce()
            if timeout_s:
                self.acquaint(back)
        return back - self.lost

    def _await(self, links: Sequence[Link], timeout_s: float) -> None:
        self._board.wait(lambda: True if all(link.life.state is not State.JOINING for link in links) else None, timeout_s)

    def _invite(self, link: Link) -> None:
        link.refusal = link.loss = ""
        link.invited = time.monotonic()
        link.peer = self._endpoint.connect(link.address, link.key)
        self.rank_of[link.peer] = link.rank
        self.send(link, self._hello(link.rank))

    def introduce(self) -> None:
        """Tell all workers who is there."""
        present = [link for link in self.links.values() if link.life.joined]
        peers = m.Peers(
            {link.rank: link.address for link in present},
            {link.rank: link.key for link in present if link.key is not None},
        )
        for link in present:
            self.send(link, peers)

    def acquaint(self, ranks: Iterable[int]) -> None:
        """Measure the clocks of those who came. With keys everybody is asked: an answer shows that the list of peers has
        arrived, and peers may connect."""
        keys = any(link.key is not None for link in self.links.values())
        self.synchronise([info.rank for info in self.infos] if keys else sorted(ranks))

    def synchronise(self, ranks: Iterable[int]) -> None:
        """Measure workers' clocks against the master's."""
        for rank in ranks:
            try:
                offset = best_offset([self.exchange(rank) for _ in range(PING_ROUNDS)])
            except WorkerLostError:
                continue
            link = self.links[rank]
            if link.info is not None:
                link.info = replace(link.info, clock_offset_ns=offset.offset_ns, clock_error_ns=offset.error_ns)
        self.clocks_at = time.monotonic()

    def set_memory(self, rank: int, memory_bytes: int) -> None:
        """What a worker told of its process's memory."""
        link = self.links[rank]
        if link.info is not None:
            link.info = replace(link.info, memory_bytes=memory_bytes)

    # Asking

    def send(self, link: Link, message: m.AnyMessage, *payloads: Frame) -> None:
        self._endpoint.send(link.peer, codec.encode(message, *payloads))

    def post(self, rank: int, message: m.AnyMessage, *payloads: Frame) -> None:
        """``send`` to a worker that is there. Raises WorkerLostError."""
        with self._board.lock:
            self.require(rank)
            self.send(self.links[rank], message, *payloads)

    def next_request(self, rank: int) -> int:
        """The number of a new request to this worker."""
        with self._board.lock:
            self._request += 1
            self._asked.add((rank, self._request))
            return self._request

    def reply(self, rank: int, request: int, kind: type[T], timeout_s: float) -> tuple[T, int]:
        """The answer to a request, and when it was handled (perf_counter_ns).

        Raises what a Failed tells, TransportTimeout, WorkerLostError.
        """

        def ready() -> tuple[m.AnyMessage, int] | None:
            found = self._replies.pop((rank, request, kind), None) or self._replies.pop((rank, request, m.Failed), None)
            if found is None:
                self.require(rank, request)
            return found

        found = self._board.wait(ready, timeout_s)
        if kind is not m.Missing or found is None or isinstance(found[0], m.Failed):
            with self._board.lock:
                self._asked.discard((rank, request))
        if found is None:
            raise TransportTimeout(f"worker {rank} did not answer ({kind.__name__}) within {timeout_s:g} s")
        message, at_ns = found
        if isinstance(message, m.Failed):
            raise failure_of(message, rank, self.links[rank])
        if not isinstance(message, kind):
            raise WireError(f"worker {rank} answered with {type(message).__name__}, not {kind.__name__}")
        return message, at_ns

    def raise_failure(self, rank: int, request: int) -> None:
        """Raise what a Failed tells, if one came for this request."""
        found = self._replies.pop((rank, request, m.Failed), None)
        if found is not None and isinstance(found[0], m.Failed):
            raise failure_of(found[0], rank, self.links[rank])

    def exchange(
        self, rank: int, payload: Frame = b"", *, echo: bool = False, reply_bytes: int = 0
    ) -> tuple[int, int, int, int]:
        """(sent here, received there, sent there, received here), each on its own clock, in ns."""
        request = self.next_request(rank)
        sent = time.perf_counter_ns()
        self.post(rank, m.Ping(request, echo, reply_bytes), payload)
        pong, received = self.reply(rank, request, m.Pong, self._timeout_s)
        return (sent, pong.received_ns, pong.sent_ns, received)

    # Arrivals

    def take(self, link: Link, message: m.AnyMessage) -> None:
        """What a worker says, but for what belongs to a run."""
        match message:
            case m.Welcome():
                self._welcome(link, message)
            case m.Refused():
                link.refusal = message.reason
                if link.life.state is State.JOINING:
                    link.life.apply(LifeEvent.REFUSE)
                else:
                    self.lose(link, message.reason)
            case m.Stored():
                if message.key in self.shipping.get(link.rank, ()):
                    self.stored.setdefault(link.rank, set()).add(message.key)
            case m.Bye():
                if link.life.joined:  # else it takes leave of the session that it was lost from
                    self.lose(link, "it was stopped")
            case m.Missing() | m.Loaded() | m.Pong() | m.Measured() | m.Status() | m.Failed():
                if (link.rank, message.request) in self._asked:
                    self._replies[link.rank, message.request, type(message)] = (message, time.perf_counter_ns())
            case _:
                log.warning("worker %d sent %s, which workers do not send", link.rank, type(message).__name__)

    def misread(self, link: Link, error: WireError) -> None:
        """A worker sent what can't be read."""
        if link.life.state is State.JOINING:
            link.refusal = str(error)
            link.life.apply(LifeEvent.REFUSE)
        else:
            self.lose(link, f"it sent nonsense: {error}")

    def lose(self, link: Link, reason: str) -> None:
        """This worker is gone; its link with it."""
        if link.life.state in (State.STOPPED, State.LOST):
            return
        link.loss = reason
        link.life.apply(LifeEvent.LOSS)
        self.rank_of.pop(link.peer, None)
        self._endpoint.disconnect(link.peer)
        self.stored.pop(link.rank, None)
        self.shipping.pop(link.rank, None)
        self._asked = {(rank, request) for rank, request in self._asked if rank != link.rank}
        self._replies = {key: reply for key, reply in self._replies.items() if key[0] != link.rank}
        log.warning("%s", loss_message(link))
        self._on_loss(link)

    def _welcome(self, link: Link, message: m.Welcome) -> None:
        if link.life.state is not State.JOINING:
            return
        link.life.apply(LifeEvent.WELCOME)
        link.info = WorkerInfo(
            link.rank,
            link.address,
            message.host,
            message.pid,
            message.threads,
            message.memory_limit_bytes,
            message.memory_bytes,
            message.isa,
            message.software,
        )
