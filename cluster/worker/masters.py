"""Masters: whom a worker serves: its life, a session for each master, and the links to other workers of these sessions.

The worker's life (`fogconv.cluster.protocol.lifecycle`) decides which masters it serves and the effects of events; they are
carried out here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from fogconv.cluster.executor.mailbox import RunAborted
from fogconv.cluster.protocol import codec, lifecycle
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.protocol.lifecycle import Life
from fogconv.cluster.transport.endpoint import Arrival, Endpoint, Loss, Peer
from fogconv.cluster.worker.master_session import MasterSession
from fogconv.errors import ClusterError, FogconvError, WireError, WorkerLostError
from fogconv.ir.layout import MASTER

log = logging.getLogger("fogconv.worker")

MAX_COMPLAINTS = 1000
"""The most unknown peers that get an answer."""


class Masters:
    """Used under the dispatcher's lock, but for `answer`, `send` and `link_to`.

    ``keys``: the public keys of allowed masters; None: any master. ``welcome`` answers the greeting of a master that is
    served from now on.
    """

    def __init__(
        self, endpoint: Endpoint, life: Life, keys: frozenset[str] | None, welcome: Callable[[MasterSession], None]
    ) -> None:
        self.life = life
        self.sessions: dict[Peer, MasterSession] = {}
        self._endpoint = endpoint
        self._keys = keys
        self._welcome = welcome
        self._complained: set[Peer] = set()

    def apply(self, event: lifecycle.Event, hello: m.Hello | None = None) -> None:
        """Apply an event, and carry out its effects. ``hello``: the master's message for a greeting."""
        self.life, effects = lifecycle.handle(self.life, event)
        for effect in effects:
            match effect:
                case lifecycle.SayWelcome() if hello is not None:
                    session = MasterSession(effect.master, self.life.of(effect.master).term, hello)
                    self.sessions[effect.master] = session
                    log.info("serving master %s as rank %d of %d", hello.name, hello.rank, hello.ranks)
                    self._welcome(session)
                case lifecycle.SayRefused():
                    names = ", ".join(self.sessions[master].hello.name for master in effect.serving)
                    self.send(effect.master, m.Refused(f"this worker is serving another master ({names})"))
                    log.warning("refused a master: serving %s", names)
                case lifecycle.SayBye():
                    self.send(effect.master, m.Bye())
                case lifecycle.AbortRuns():
                    for run in effect.runs:
                        self.sessions[effect.master].inbox.fail(run, RunAborted(effect.reason))
                case lifecycle.FailRuns(rank=int() as rank):
                    session = self.sessions[effect.master]
                    told = f"rank {session.hello.rank} lost its link to rank {rank}: {effect.reason}"
                    for run in effect.runs:
                        session.inbox.fail(run, WorkerLostError(told, rank))
                case lifecycle.Forget():
                    self._forget(effect.master)
                case lifecycle.End():
                    for master in list(self.sessions):
                        self._forget(master)

    def _forget(self, master: Peer) -> None:
        """Drop everything that belongs to this master; weights stay."""
        session = self.sessions.pop(master)
        for peer in (master, *session.incoming):
            self._endpoint.distrust(peer)
        session.tasks.clear()
        session.programs.clear()
        for peer in session.outgoing.values():
            self._endpoint.disconnect(peer)
        self._admit()

    def _admit(self) -> None:
        keys = [session.addresses.keys.values() for session in self.sessions.values()]
        self._endpoint.admit(frozenset().union(*keys))

    def over(self, session: MasterSession) -> bool:
        """Whether its master is no longer served."""
        return not self.life.serves(session.peer, session.term)

    def greet(self, event: Arrival, hello: m.Hello) -> None:
        """A master asks to be served."""
        if self._keys is not None and event.credential not in self._keys:
            self.send(event.peer, m.Refused("your key is not listed among this worker's masters"))
            return
        # The session's token does not suffice: all its workers know it, and a replay would take over this one.
        others = [peer for peer in self.life.masters if peer != event.peer]
        gone = frozenset(peer for peer in others if not self._endpoint.probe(peer))
        self.apply(lifecycle.Greeted(event.peer, gone), hello)

    def attach(self, event: Arrival, attach: m.Attach) -> None:
        """Another worker opened a link to this one."""
        for served in self.sessions.values():
            if served.attach(event.peer, attach, event.credential):
                self._endpoint.trust(event.peer)
                self.send(event.peer, m.Attached(served.hello.rank))
                return
        if self.complain(event.peer, f"no session here knows you as its rank {attach.rank}"):
            log.warning("refused a link as rank %d: its session, rank or key is not one that a master named", attach.rank)

    def take(self, peer: Peer, data: m.Data, payload: Frame) -> None:
        """Data for a run, of a master or of another worker."""
        for served in self.sessions.values():
            rank = served.rank_of(peer)
            if rank is not None:
                served.inbox.put(data.run, rank, data.tag, payload)
                if served.inbox.bytes > served.inbox.most_bytes:
                    self._make_room(served, peer, rank)

    def name_peers(self, session: MasterSession, peers: m.Peers) -> None:
        """A peer joined or returned: a link to its predecessor would be to the wrong one."""
        for peer in session.outgoing.values():
            self._endpoint.disconnect(peer)
        session.outgoing.clear()
        session.addresses = peers
        self._admit()

    def complain(self, peer: Peer, reason: str) -> bool:
        """Inform a peer once that its message was not understood or that it is not served. Returns whether it was
        informed now.

        No more messages of an unknown peer are accepted then: an honest one comes again with a new link.
        """
        if peer not in self.sessions and all(session.rank_of(peer) is None for session in self.sessions.values()):
            self._endpoint.ignore(peer)
        if peer in self._complained or len(self._complained) >= MAX_COMPLAINTS:
            return False
        self._complained.add(peer)
        self.send(peer, m.Refused(reason))
        return True

    def dialed(self, peer: Peer) -> bool:
        """Whether this worker opened the link itself, to another one."""
        return any(peer in session.outgoing.values() for session in self.sessions.values())

    def _make_room(self, session: MasterSession, peer: Peer, rank: int) -> None:
        """More arrived than all loaded programs receive: the rank that sent most loses what is furthest ahead."""
        worst = session.inbox.make_room()
        if worst == rank:
            self.give_up(peer, WireError(f"rank {rank} sent more for runs to come than they can take"))

    def give_up(self, peer: Peer, error: Exception) -> None:
        """Let a peer go with which something went wrong that has no answer. Raises nothing."""
        expected = isinstance(error, FogconvError | OSError | MemoryError)
        log.error("dropped a peer: %s: %s", type(error).__name__, error, exc_info=None if expected else error)
        with contextlib.suppress(Exception):
            self._endpoint.drop(peer)
        with contextlib.suppress(Exception):
            self.lose(Loss(peer, f"{type(error).__name__}: {error}"))

    def lose(self, loss: Loss) -> None:
        """A peer is lost: a master, or another worker."""
        self._complained.discard(loss.peer)
        session = self.sessions.get(loss.peer)
        if session is not None:
            log.warning("master %s is lost: %s", session.hello.name, loss.reason)
            self.apply(lifecycle.Left(loss.peer, f"the master is lost: {loss.reason}"))
        for served in self.sessions.values():
            served.incoming.pop(loss.peer, None)
            for rank in [rank for rank, peer in served.outgoing.items() if peer == loss.peer]:
                del served.outgoing[rank]
                # Messages in transit are lost, and the master may not have noticed, because a link can fail alone. Or it
                # has, and this run already continues on other workers.
                self.apply(lifecycle.LinkBroke(served.peer, rank, loss.reason))

    def link_to(self, session: MasterSession, rank: int) -> Peer:
        """The link to a rank of this session, opened now where there is none. Raises ClusterError where the master named no
        address for it."""
        if rank == MASTER:
            return session.peer
        peer = session.outgoing.get(rank)
        if peer is None:
            address = session.addresses.addresses.get(rank)
            if address is None:
                raise ClusterError(f"the master named no address for rank {rank}")
            peer = self._endpoint.connect(address, session.addresses.keys.get(rank))
            session.outgoing[rank] = peer
            self.send(peer, m.Attach(session.hello.session, session.hello.rank))
            self._endpoint.hold(peer)
        return peer

    def answer(self, session: MasterSession, message: m.AnyMessage, *payloads: Frame) -> None:
        """Send to a master, if it is still served."""
        if not self.over(session):
            self.send(session.peer, message, *payloads)

    def send(self, peer: Peer, message: m.AnyMessage, *payloads: Frame, ordered: bool = True) -> None:
        self._endpoint.send(peer, codec.encode(message, *payloads), ordered=ordered)
