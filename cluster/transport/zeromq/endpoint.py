"""ZeroMQ transport: a worker binds a ROUTER; masters and other workers connect a DEALER to it.

A ROUTER's messages have the sender's routing id in front, then come the frames of ``parts``, or of ``shared``: between
processes of one user over loopback, large payloads use shared memory. From a peer that is not trusted only short messages
in one frame are accepted: nothing is assembled for it, none of its memory is mapped, and the doorkeeper ends its connection
if it sends too much. An end that connects elsewhere, a master, trusts the peers that it named; a worker trusts the peers
that it is asked to.

The I/O thread of ZeroMQ moves bytes and answers heartbeats, also while a kernel runs. Sockets are used from several
threads under one lock; waiting is done without it, on the sockets' file descriptors. Such a descriptor reports only
changes, and a send may consume one: so after a send the socket is checked again before the next wait.
"""

from __future__ import annotations

import logging
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import zmq
from numpy.typing import NDArray
from zmq.utils.monitor import parse_monitor_message

from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.protocol.keys import Keys
from fogconv.cluster.protocol.timeouts import HEARTBEAT_S
from fogconv.cluster.transport.endpoint import DIRECT_BYTES, Arrival, Event, Loss, Peer
from fogconv.cluster.transport.resolver import Resolution, Resolver
from fogconv.cluster.transport.zeromq import dialing
from fogconv.cluster.transport.zeromq.admission.callers import Callers
from fogconv.cluster.transport.zeromq.admission.doorkeeper import Doorkeeper
from fogconv.cluster.transport.zeromq.admission.register import Limits, Register
from fogconv.cluster.transport.zeromq.chunking import BEHIND, BEHIND_BYTES, SHORT_BYTES, Assembly, cut, cut_behind
from fogconv.cluster.transport.zeromq.descriptors import raise_descriptor_limit, roomy_context
from fogconv.cluster.transport.zeromq.direct.connection import Connection
from fogconv.cluster.transport.zeromq.direct.exchange import Exchange
from fogconv.cluster.transport.zeromq.direct.opening import is_about_opening
from fogconv.cluster.transport.zeromq.shared_memory import SHARED_BYTES, Sharing, is_reference, is_sharing
from fogconv.cluster.transport.zeromq.sockets import LINGER_MS, Socket, bound, connected, trouble
from fogconv.cluster.transport.zeromq.wake_pipe import WakePipe
from fogconv.cluster.transport.zeromq.watched import Watched
from fogconv.errors import ConnectError
from fogconv.hardware.address import parse_address

if TYPE_CHECKING:
    from fogconv.cluster.transport.channel import Channel
    from fogconv.cluster.transport.zeromq.admission.authentication import Authentication

log = logging.getLogger("fogconv.transport")

SKIPPED_AT_ONCE = 1000
"""Messages of ignored peers that are skipped before other work is done."""
STRANGER_MESSAGE_BYTES = 16 << 10
"""The longest message of a peer that is not trusted yet: Hello, Attach and StatusQuery are far shorter."""

_BAD_HANDSHAKE_REASON = (
    "the keys do not fit: it does not list ours, it has another than the one listed here, or only one end encrypts"
)
_LINUX = sys.platform.startswith("linux")
_READABLE = select.POLLIN
_LAST = int(zmq.NOBLOCK)


class ZeromqEndpoint:
    """See transport.Endpoint. A worker gives ``bind``, the address it listens on.

    ``heartbeat_s``: within this time a lost or stopped peer is noticed. Payloads of more than ``max_payload_bytes`` are
    refused. With ``keys`` the bound socket is encrypted and open to listed masters and admitted peers only; every link
    with a key given to ``connect`` is encrypted as well. ``shared``: offer memory to peers at loopback addresses.
    ``resolver`` looks names up. ``has_room(nbytes)``: whether payloads may still take so much. Raises ConnectError where
    the address can't be bound.
    """

    scheme = "tcp"

    def __init__(
        self,
        bind: str | None = None,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        max_payload_bytes: int = codec.MAX_PAYLOAD_BYTES,
        keys: Keys | None = None,
        shared: bool = True,
        direct: bool = True,
        resolver: Resolver | None = None,
        has_room: Callable[[int], bool] = lambda nbytes: True,
    ) -> None:
        self._descriptors = raise_descriptor_limit()
        self._keys = keys
        self._resolver = resolver or Resolver()
        self._shared = shared
        self._sharing = Sharing(max_payload_bytes)
        self._authentication: Authentication | None = None
        self._turned_away = 0
        self._heartbeat_s = heartbeat_s
        self._lock = threading.RLock()
        self._context = roomy_context()
        self._poller = Watched()
        self._direct = direct
        self._exchange = Exchange(self._poller)
        self._by_fd: dict[int, tuple[Socket, bool]] = {}
        self._changed: dict[Socket, bool] = {}  # True: it has reported a message; False: it has to be polled
        self._links: dict[Peer, Socket] = {}
        self._callers = Callers(self._reachable, self._forget_halves)
        self._incoming = self._callers.known
        self._has_room = has_room
        self._assembly = Assembly(max_payload_bytes, lambda nbytes: has_room(nbytes + self._behind.promised))
        self._behind = Assembly(max_payload_bytes, lambda nbytes: has_room(nbytes + self._assembly.promised), BEHIND_BYTES)
        self._probe_at = self._callers.probe_at
        self._events: deque[Event] = deque()
        self._waiting = False
        self._woken = False
        self._closed = False
        self._pipe = WakePipe()
        self._poller.register(self._pipe.fd, _READABLE)
        self._router: Socket | None = None
        self._host = ""
        self._stumbled = False
        self.address = ""
        if bind is not None:
            try:
                self._router = self._bind(bind)
            except BaseException:
                self.close()
                raise

    def _bind(self, address: str) -> Socket:
        if self._keys is not None:
            # Imported late: asyncio costs half of this module's import time.
            from fogconv.cluster.transport.zeromq.admission.authentication import Authentication

            self._authentication = Authentication(self._context, self._keys.masters)
        router = bound(self._context, address, self._heartbeat_s, None if self._keys is None else self._keys.own)
        self.address = router.raw.getsockopt_string(zmq.LAST_ENDPOINT)
        self._host = parse_address(self.address, listening=True).host
        self._watch(router)
        register = Register(Limits.within(self._descriptors))
        try:
            self._callers.doorkeeper = Doorkeeper(
                router.monitor, self._connection_ended, self._handshake_failed, register, self._has_room
            )
        except OSError as error:
            self._forget(router, 0)
            raise ConnectError(f"{address} can't be watched: {error.strerror}") from error
        return router

    def _watch(self, link: Socket) -> None:
        for fd, is_monitor in zip(link.descriptors, (False, True), strict=False):
            self._by_fd[fd] = (link, is_monitor)
            self._poller.register(fd, _READABLE)
        # A descriptor reports nothing until its socket has once been found empty.
        self._changed[link] = False
        if not link.router:
            self._read_monitor(link)

    def _forget(self, link: Socket, linger_ms: int) -> None:
        for fd in link.descriptors:
            del self._by_fd[fd]
            self._poller.unregister(fd)
        self._changed.pop(link, None)
        link.drop(linger_ms)

    # Endpoint

    def connect(self, address: str, key: str | None = None) -> Peer:
        """See transport.Endpoint. Raises ConnectError for an invalid address."""
        with self._lock:
            own = None if self._keys is None else self._keys.own
            link = connected(self._context, address, self._heartbeat_s, own, key)
            link.trusted = self._router is None
            self._watch(link)
            self._links[link] = link
            self._dial(link)
            self._pipe.write()
            return link

    def _dial(self, link: Socket) -> None:
        """Let a link connect, at once where its host is a number or a name that was resolved before."""
        assert link.dial is not None
        target = link.dial.address
        if target.scheme != "tcp" or target.number:
            self._resolved(link, Resolution(target.host, (target.host,) if target.host else ()))
            return
        known = self._resolver.remembered(target.host)
        if known is not None:
            self._resolved(link, known)
        else:
            self._resolver.resolve_later(target.host, partial(self._resolved, link))

    def _resolved(self, link: Socket, found: Resolution) -> None:
        """What a link's host stands for is known. From any thread."""
        with self._lock:
            if link not in self._links or link.dial is None:
                return
            trouble = found.trouble
            if not trouble:
                try:
                    link.dial.begin(found.numbers)
                except zmq.ZMQError as error:
                    trouble = f"it can't be connected to: {error.strerror}"
            if trouble:
                self._lose(link, trouble)
                self._pipe.write()

    def disconnect(self, peer: Peer) -> None:
        with self._lock:
            link = self._links.pop(peer, None)
            if link is not None:
                self._forget(link, LINGER_MS if link.connected else 0)
            self._forget_halves(peer)

    def trust(self, peer: Peer) -> None:
        with self._lock:
            link = self._links.get(peer)
            if link is None:
                self._callers.trust(peer)
                return
            link.trusted = True
            link.release()
            self._changed[link] = False  # what waits goes out with the next look
            self._pipe.write()

    def distrust(self, peer: Peer) -> None:
        with self._lock:
            self._callers.distrust(peer)

    def ignore(self, peer: Peer) -> None:
        with self._lock:
            self._callers.ignore(peer)

    def drop(self, peer: Peer) -> None:
        with self._lock:
            self._callers.ignore(peer)
            if not self._callers.show_out(peer):
                self.disconnect(peer)

    def hold(self, peer: Peer) -> None:
        with self._lock:
            link = self._links.get(peer)
            if link is not None:
                link.hold()

    def send(self, peer: Peer, frames: Sequence[Frame], *, ordered: bool = True, behind: bool = False) -> None:
        with self._lock:
            link = self._links.get(peer)
            if behind and link is not None and len(frames) == 2 and not (self._shared and link.near):
                link.behind.extend(cut_behind(frames))
                self._send_behind(link)
                return
            if not ordered and self._send_directly(link, peer, frames):
                return
            if link is None:  # not connected by this end: the ROUTER knows it, or it is lost
                link = self._router
                if link is None or peer not in self._incoming:
                    return
            size = len(frames[1]) if len(frames) == 2 else 0
            # Most messages. Each of Python's calls on their way counts: its code is cold after a switch of processes.
            if size <= SHORT_BYTES and not link.backlog and link.send(peer, (b"".join(frames),)) is not False:
                self._changed[link] = False
                if self._waiting:
                    self._pipe.write()
                return
            self._put(link, peer, cut(frames) if size < SHARED_BYTES else self._by_reference(link, peer, frames))

    def channel(self, peer: Peer) -> Channel | None:
        with self._lock:
            connection = self._exchange.connections.get(peer)
            if connection is None or connection.sealed or connection.rest or not _LINUX:
                return None
            link = self._links.get(peer)
            shares = self._sharing.reaches(peer) or (self._shared and link is not None and link.near)
            channel = connection.channel or connection.share(
                partial(self._go_on, peer, connection), partial(self._hear_of, peer, connection)
            )
            channel.fit(SHARED_BYTES - 1 if shares else DIRECT_BYTES)
            return channel

    def lease(self) -> NDArray[np.int32] | None:
        with self._lock:
            if self._closed or self._events or self._changed or self._probe_at or self._woken or self._waiting:
                return None
            self._waiting = True
            return self._poller.structs(without=self._exchange.peer_at)

    def end_lease(self) -> None:
        with self._lock:
            self._waiting = False
            if self._closed:
                self._pipe.close()

    def room(self, nbytes: int) -> memoryview | None:
        with self._lock:
            return self._sharing.room(nbytes)

    def receive(self, timeout_s: float) -> Event | None:
        deadline = 0.0
        lock = self._lock
        with lock:
            while not self._closed:
                if not self._events and (self._changed or self._probe_at):
                    self._work()
                if self._events:
                    return self._events.popleft()
                if self._woken:
                    self._woken = False
                    return None
                now = time.monotonic()
                if not deadline:
                    deadline = now + timeout_s
                elif now >= deadline:
                    return None
                until = min(deadline, self._probe_at[0]) if self._probe_at else deadline
                self._waiting = True
                lock.release()
                try:
                    ready = self._poller.poll(max(0.0, until - now) * 1000.0)
                finally:
                    lock.acquire()
                    self._waiting = False
                if not self._closed:
                    for fd, _ in ready:
                        peer = self._exchange.peer_at.get(fd)
                        if peer is not None:
                            self._hear_directly(peer)
                        else:
                            self._note(fd)
                    self._exchange.expire()
            self._pipe.close()
            return None

    def wake(self) -> None:
        with self._lock:
            self._woken = True
            self._pipe.write()

    def admit(self, keys: frozenset[str]) -> None:
        if self._authentication is not None:
            self._authentication.admitted = keys

    def probe(self, peer: Peer) -> bool:
        with self._lock:
            if isinstance(peer, Socket):
                return peer in self._links
            return self._callers.probe(peer)

    def diagnose(self, address: str) -> str:
        parsed = parse_address(address)
        if parsed.scheme != "tcp" or parsed.number:
            return trouble(parsed)
        found = self._resolver.remembered(parsed.host)
        if found is None:
            return f"the name {parsed.host!r} is not resolved yet"
        return "; ".join(f"{number}: {trouble(parsed.at(number)) or 'it is open'}" for number in found.numbers)

    def close(self) -> None:
        if self._callers.doorkeeper is not None:
            self._callers.doorkeeper.stop()  # without the lock, which it takes to say that a connection ended
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for link in [*self._links.values(), *([self._router] if self._router else [])]:
                for peer, part in link.backlog:
                    if link.send(peer, part) is False:
                        break
                link.drop(LINGER_MS if link.connected else 0)
            self._links.clear()
            self._router = None
            self._sharing.close()
            self._exchange.close()
            self._pipe.write()
        if self._authentication is not None:
            self._authentication.stop()
        self._context.term()
        with self._lock:
            if not self._waiting:
                self._pipe.close()

    # Under the lock

    def _put(self, link: Socket, peer: Peer, parts: Sequence[list[Frame]]) -> None:
        """Send the parts of a message, or let them wait."""
        link.put(peer, parts)
        self._changed[link] = False
        if self._waiting:
            self._pipe.write()

    def _send_behind(self, link: Socket) -> None:
        """Send of what is behind as much as may be on its way."""
        link.send_waiting()
        self._changed[link] = False
        if self._waiting:
            self._pipe.write()

    def _by_reference(self, link: Socket, peer: Peer, frames: Sequence[Frame]) -> Sequence[list[Frame]]:
        """A large message as a reference where the peer has mapped this memory; otherwise as a normal message."""
        referring = self._sharing.refer(peer, frames)
        if referring is not None:
            return (referring,)
        offer = self._sharing.offer(peer) if self._shared and link.near else None
        return cut(frames) if offer is None else (offer, *cut(frames))

    def _send_directly(self, link: Socket | None, peer: Peer, frames: Sequence[Frame]) -> bool:
        """Send a message over the direct connection, if there is one. False where it has to take the link."""
        connection = self._exchange.connections.get(peer)
        if connection is None:
            self._propose(link)
            return False
        message = frames
        try:
            if len(frames[-1]) >= SHARED_BYTES:
                referring = self._sharing.refer(peer, frames)
                if referring is not None:
                    message = referring
                elif self._shared and link is not None and link.near:
                    return False  # which offers this memory
            sent = connection.send(message)
        except OSError as error:
            self._exchange.forget(peer)
            self._break(peer, error)
            return True
        if connection.rest:
            self._exchange.flush_later(connection)
            if self._waiting:
                self._pipe.write()
        if not sent and message is not frames:
            link = link or self._router
            assert link is not None  # a direct connection lies beside one
            self._put(link, peer, (list(message),))
            return True
        return sent

    def _go_on(self, peer: Peer, connection: Connection, rest: bytes) -> None:
        """Send the rest of a message of which compiled code sent the first part, unless the connection has ended."""
        with self._lock:
            if self._exchange.connections.get(peer) is connection:
                connection.rest = rest
                self._exchange.flush_later(connection)
                if self._waiting:
                    self._pipe.write()

    def _hear_of(self, peer: Peer, connection: Connection, data: bytes) -> None:
        """Compiled code read bytes that are not the message that it expected."""
        with self._lock:
            if self._exchange.connections.get(peer) is connection:
                self._hear_directly(peer, data)

    def _propose(self, link: Socket | None) -> None:
        """Ask for a direct connection to the other end of a link that ``connect`` opened, if that was not done."""
        if self._direct and link is not None and link.trusted:
            ask = self._exchange.ask(link, link.near, link.sealed)
            if ask is not None:
                self._put(link, link, ([ask],))

    def _hear_directly(self, peer: Peer, before: bytes = b"") -> None:
        """What has come over a direct connection; what waits for it is sent, too."""
        connection = self._exchange.connections[peer]
        try:
            if connection.rest:
                self._exchange.flush(connection)
            messages, lasts = connection.read(before)
        except OSError as error:
            self._exchange.forget(peer)
            self._break(peer, error)
            return
        if not lasts:
            self._exchange.forget(peer)
        for frames in messages:
            self._events.append(Arrival(peer, frames if len(frames) < 3 else self._sharing.resolve(peer, frames)))

    def _read_to_the_end(self, peer: Peer) -> None:
        """A link has ended: what came over its direct connection before is valid."""
        if peer in self._exchange.connections:
            self._hear_directly(peer)

    def _break(self, peer: Peer, error: OSError) -> None:
        """A direct connection broke: so did the link, because messages are lost."""
        log.info("a direct connection broke: %s", error.strerror or error)
        link = self._links.get(peer)
        if link is not None:
            self._lose(link, "the connection ended")
        else:
            self.drop(peer)
            self._events.append(Loss(peer, "the connection ended"))
        if self._waiting:
            self._pipe.write()

    def _agree(self, link: Socket, peer: Peer, frame: bytes) -> None:
        """An ask for a direct connection, or an offer of one."""
        if not self._direct:
            return
        if link.router:
            offer = self._exchange.answer(peer, frame, self._host, self._keys is not None)
            if offer is not None:
                self._put(link, peer, ([offer],))
        elif link.dial is not None:
            self._exchange.accept(peer, frame, "" if link.near else link.dial.number or link.dial.address.host)

    def _forget_halves(self, peer: Peer) -> None:
        """A connection is lost: drop the received part of its message, and what was lent to it."""
        self._exchange.forget(peer)
        self._assembly.forget(peer)
        self._behind.forget(peer)
        self._sharing.forget(peer)

    def _note(self, fd: int) -> None:
        if fd == self._pipe.fd:
            self._pipe.drain()
            return
        watched = self._by_fd.get(fd)
        if watched is None:
            self._exchange.go_on(fd)
            return
        link, is_monitor = watched
        self._changed[link] = not is_monitor
        if is_monitor:
            self._read_monitor(link)

    def _work(self) -> None:
        """Read the next message of the sockets that changed, send what waits for them, and handle lost peers."""
        if self._probe_at:
            for peer in self._callers.unreachable():
                self._read_to_the_end(peer)
                self._incoming.pop(peer, None)
                self._forget_halves(peer)
                self._events.append(Loss(peer, "the connection ended"))
        while self._changed and not self._events:
            link = next((link for link, told in self._changed.items() if told), None)
            if link is None:
                self._ask()
                continue
            del self._changed[link]
            if link.waits:
                link.send_waiting()
            if self._read(link) and not link.raw.closed:
                self._changed[link] = False

    def _ask(self) -> None:
        """Which of the sockets that changed have a message. One poll of all takes half as long as one of each."""
        for link in self._changed:
            if link.waits:
                link.send_waiting()
        found = zmq.zmq_poll([(link.raw, zmq.POLLIN) for link in self._changed], 0)
        readable = [raw for raw, _ in found]
        self._changed = {link: True for link in self._changed if link.raw in readable} if readable else {}

    def _read(self, link: Socket) -> bool:
        """Take one message. False if there is none; finding that out is slow, so poll first."""
        take = link.take
        peer: Peer = link
        credential = None
        trusted = link.trusted
        skipped = 0
        while True:
            try:
                if link.router:
                    peer = take(_LAST)
                    frame = take(_LAST, False)
                    caller = self._incoming.get(peer)
                    if caller is None:
                        fd = _descriptor(frame)
                        if fd is None:
                            while frame.more:
                                frame = take(_LAST, False)
                            return True
                        key = None if self._keys is None else str(frame["User-Id"])
                        caller = self._callers.meet(peer, key, fd)
                    trusted = caller.trusted
                    if not trusted and caller.ignored:
                        # At once, and not by the rounds that other messages make: it may have left thousands.
                        while frame.more:
                            frame = take(_LAST, False)
                        skipped += 1
                        if skipped < SKIPPED_AT_ONCE:
                            continue
                        return True
                    credential = caller.credential
                    caller.spoke = True
                else:
                    frame = take(_LAST, False)
            except zmq.Again:
                return False
            break
        header = frame.bytes
        if trusted and not frame.more and header[:4] == codec.MAGIC and not self._assembly.partial:
            self._events.append(Arrival(peer, (header,), credential))  # most messages
            return True
        try:
            self._take_rest(link, peer, header, frame, trusted, credential)
        except Exception as error:
            if not self._stumbled:
                self._stumbled = True
                log.exception("dropped a peer: its message could not be taken (logged once)")
            while frame.more:
                frame = take(_LAST, False)
            self.drop(peer)
            self._events.append(Loss(peer, f"its message could not be taken: {error}"))
        return True

    def _take_rest(self, link: Socket, peer: Peer, header: bytes, frame: Any, trusted: bool, credential: str | None) -> None:
        """The further frames of a message, and what they are."""
        frames: list[Frame] = [header]
        count, nbytes = 1, len(header)
        while frame.more:
            frame = link.take(_LAST, False)
            count += 1
            nbytes += len(frame)
            if trusted and len(frames) < 3:
                frames.append(frame.buffer)
        if not trusted:
            self._take_from_stranger(peer, header, count, nbytes, credential)
            return
        message: Sequence[Frame] | None
        if header == BEHIND:
            message = self._take_behind(link, peer, frames)
        elif is_about_opening(header):
            message = None
            self._agree(link, peer, header)
        elif is_reference(frames):
            message = self._sharing.resolve(peer, frames)
        elif is_sharing(frames):
            message = None
            answer = self._sharing.hear(peer, frames)
            if answer is not None:
                self._put(link, peer, (answer,))
        else:
            message = self._assembly.add(peer, frames)
        if message is not None:
            self._events.append(Arrival(peer, message, credential))

    def _take_behind(self, link: Socket, peer: Peer, frames: list[Frame]) -> Sequence[Frame] | None:
        """A part of a message that others may overtake, or the answer to one."""
        if len(frames) == 1:
            if not link.router:
                link.pace.came(time.monotonic())
                self._send_behind(link)
            return None
        self._put(link, peer, ([BEHIND],))
        return self._behind.add(peer, [bytes(frames[1]), *frames[2:]])

    def _take_from_stranger(self, peer: Peer, header: bytes, frames: int, nbytes: int, credential: str | None) -> None:
        # An empty one is a probe, or the rest of a message that is not accepted.
        if self._callers.settle(peer, frames, nbytes) and len(header):
            self._events.append(Arrival(peer, (header[:STRANGER_MESSAGE_BYTES],), credential))

    def _read_monitor(self, link: Socket) -> None:
        while True:
            try:
                event = parse_monitor_message(link.monitor.recv_multipart(zmq.NOBLOCK))["event"]
            except zmq.Again:
                return
            if event & dialing.EVENTS:
                if link.follow(event):
                    self._changed[link] = False  # what waited can be sent
            elif link in self._links:
                while self._read(link):  # messages from before the end are valid
                    pass
                self._read_to_the_end(link)
                if link not in self._links:
                    return
                refused = event != zmq.EVENT_DISCONNECTED and not link.opened
                self._lose(link, _BAD_HANDSHAKE_REASON if refused else "the connection ended")
                return

    def _lose(self, link: Socket, reason: str) -> None:
        """A link that ``connect`` opened is over."""
        del self._links[link]
        self._forget_halves(link)
        self._forget(link, 0)
        self._events.append(Loss(link, reason))

    # From the doorkeeper's thread

    def _connection_ended(self) -> None:
        with self._lock:
            self._callers.probe_soon()
            self._pipe.write()

    def _handshake_failed(self) -> None:
        self._turned_away += 1
        if self._turned_away == 1:
            log.warning("refused an unknown peer: it has no key, a wrong one, or another protocol (logged once)")

    # Under the lock

    def _reachable(self, peer: Peer) -> bool:
        if self._router is None:
            return False
        # This send, too, may consume the descriptor's report.
        self._changed[self._router] = False
        return self._router.send(peer, [b""]) is not None


def _descriptor(frame: zmq.Frame) -> int | None:
    """The descriptor of the connection that a message came by. None where libzmq names none, as of peers of ZMTP 1 and 2,
    which no fogconv speaks: such a peer could not be held to a stranger's limits, nor could its connection be ended."""
    try:
        return int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        return None
