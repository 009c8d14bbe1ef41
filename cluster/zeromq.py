"""ZeroMQ transport: a worker binds a ROUTER; masters and other workers connect a DEALER to it.

    [header]                  a message without payload
    [header + payload]        a short message; the header says how long the payload is
    [header, payload]         a message
    [header, first part]      the begin of a long one
    [empty, next part]        its continuation
    [empty]                   nothing: "are you there?"

Long payloads travel in parts because a heartbeat can't overtake the message that is on the wire: at 100 Mbit one
of 10 MB would silence a link for as long as a dead peer is. A ROUTER's messages have the sender's routing id in front.

The I/O thread of ZeroMQ moves bytes and answers heartbeats by itself, also while a kernel runs. Sockets are used from
several threads under one lock; waiting is done without it, on the sockets' file descriptors. Such a descriptor tells only
of changes, and a send may use the change up: so a socket that was sent on is looked at again before the next wait.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import socket as sockets
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import zmq
from numpy.typing import NDArray
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import parse_monitor_message

from fogconv.cluster import codec
from fogconv.cluster.codec import Frame
from fogconv.cluster.keys import KeyPair, Keys
from fogconv.cluster.transport import Arrival, Event, Loss, Peer
from fogconv.errors import ClusterError, ConnectError, WireError

log = logging.getLogger("fogconv.transport")

SHORT_BYTES = 4 << 10
"""Up to here one copy is cheaper than one more frame."""
COPY_BYTES = 64 << 10
"""Up to here a copy is cheaper than keeping the sender's memory until it is sent."""
PART_BYTES = 256 << 10
"""0.2 s at 10 Mbit."""
HIGH_WATER_MARK = 4096
"""Messages queued per connection in ZeroMQ. Reached on the receiving side, it would stop heartbeats too."""
MAX_BACKLOG = 65536
"""Messages beyond the mark that wait here for one peer."""
LINGER_MS = 500
SEND_BUFFER_BYTES = 512 << 10
"""What the kernel holds ahead of a heartbeat."""
HALF_OPEN_MS = 5000
PROBE_DELAYS_S = (0.01, 0.1, 0.5)
"""After a ROUTER lost a connection its routing id disappears in a moment."""

_IPV4 = re.compile(r"tcp://[0-9.]+:")
_BAD_HANDSHAKE_REASON = (
    "the keys do not fit: it does not list ours, it has another than the one listed here, or only one end encrypts"
)
_READABLE = select.POLLIN
_POLLIN = int(zmq.POLLIN)
_LAST = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_BAD_HANDSHAKE = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL


@dataclass(slots=True)
class _Partial:
    """A payload of which parts have come."""

    header: Frame
    payload: NDArray[np.uint8]
    filled: int


@dataclass(eq=False, slots=True)
class _Socket:
    """A DEALER, or the ROUTER, with what waits for it."""

    raw: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    address: str
    router: bool = False
    connected: bool = False
    backlog: deque[tuple[Peer, list[Frame]]] = field(default_factory=deque)


class ZeromqEndpoint:
    """See transport.Endpoint. A worker gives ``bind``, the address it listens on.

    ``heartbeat_s``: within this time a peer that is gone, or stopped, is noticed. Payloads of more than
    ``max_payload_bytes`` are not taken. With ``keys`` all that is bound is encrypted and open to listed masters and
    admitted peers only, and so is every link for which ``connect`` is given a key. Raises ConnectError where the address
    can't be bound.
    """

    scheme = "tcp"

    def __init__(
        self,
        bind: str | None = None,
        *,
        heartbeat_s: float = 1.0,
        max_payload_bytes: int = codec.MAX_PAYLOAD_BYTES,
        keys: Keys | None = None,
    ) -> None:
        self._keys = keys
        self._admitted: frozenset[str] = frozenset()
        self._authenticator: ThreadAuthenticator | None = None
        self._turned_away = 0
        self._heartbeat_s = heartbeat_s
        self._max_payload_bytes = max_payload_bytes
        self._lock = threading.RLock()
        self._context = zmq.Context()
        self._poller = select.poll()
        self._by_fd: dict[int, tuple[_Socket, bool]] = {}
        self._changed: dict[_Socket, bool] = {}  # looked at in turns; True: its descriptor told of a message
        self._links: dict[Peer, _Socket] = {}
        self._incoming: dict[Peer, str | None] = {}
        self._partial: dict[Peer, _Partial] = {}
        self._probe_at: deque[float] = deque()
        self._events: deque[Event] = deque()
        self._waiting = False
        self._woken = False
        self._closed = False
        self._pipe: tuple[int, ...] = os.pipe()
        self._wake_read, self._wake_write = self._pipe
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._poller.register(self._wake_read, _READABLE)
        self._router: _Socket | None = None
        self.address = ""
        if bind is not None:
            try:
                self._router = self._bind(bind)
            except BaseException:
                self.close()
                raise

    def _bind(self, address: str) -> _Socket:
        raw = self._raw(zmq.ROUTER, address)
        raw.setsockopt(zmq.ROUTER_MANDATORY, 1)
        if self._keys is not None:
            self._authenticate()
            _encrypt(raw, self._keys.own)
            raw.curve_server = True
        monitor = raw.get_monitor_socket(zmq.EVENT_DISCONNECTED | _BAD_HANDSHAKE)
        router = _Socket(raw, monitor, address, router=True, connected=True)
        try:
            raw.bind(address)
        except zmq.ZMQError as error:
            _drop(router, 0)
            if error.errno == zmq.EADDRINUSE:
                raise ConnectError(f"{address} is in use: another worker may run there; choose another port") from error
            raise ConnectError(f"{address} can't be bound: {error.strerror}") from error
        self.address = raw.getsockopt_string(zmq.LAST_ENDPOINT)
        self._watch(router)
        return router

    def _authenticate(self) -> None:
        """Let ZeroMQ ask, in a thread of pyzmq's, whether a client's key is one that may come in."""
        authenticator = ThreadAuthenticator(self._context)
        authenticator.start()
        authenticator.configure_curve_callback(credentials_provider=self)
        self._authenticator = authenticator

    def callback(self, domain: str, key: bytes) -> bool:
        """pyzmq's authenticator asks this for every client."""
        assert self._keys is not None
        return key.decode() in self._keys.masters or key.decode() in self._admitted

    def _raw(self, kind: int, address: str) -> zmq.Socket[bytes]:
        raw: zmq.Socket[bytes] = self._context.socket(kind)
        for option, value in (
            (zmq.LINGER, LINGER_MS),
            (zmq.SNDHWM, HIGH_WATER_MARK),
            (zmq.RCVHWM, HIGH_WATER_MARK),
            (zmq.MAXMSGSIZE, max(PART_BYTES, codec.MAX_HEADER_BYTES)),
            (zmq.SNDBUF, SEND_BUFFER_BYTES),
            (zmq.IPV6, int(not _IPV4.match(address))),
            (zmq.HANDSHAKE_IVL, HALF_OPEN_MS),
            (zmq.RECONNECT_IVL_MAX, 1000),
            (zmq.HEARTBEAT_IVL, max(1, int(250 * self._heartbeat_s))),
            (zmq.HEARTBEAT_TIMEOUT, max(1, int(600 * self._heartbeat_s))),
        ):
            raw.setsockopt(option, value)
        return raw

    def _watch(self, link: _Socket) -> None:
        for raw, is_monitor in ((link.raw, False), (link.monitor, True)):
            fd = _fd(raw)
            self._by_fd[fd] = (link, is_monitor)
            self._poller.register(fd, _READABLE)
        # A descriptor stays quiet until its socket has once been found empty.
        self._changed[link] = False
        self._read_monitor(link)

    def _forget(self, link: _Socket, linger_ms: int) -> None:
        for raw in (link.raw, link.monitor):
            fd = _fd(raw)
            del self._by_fd[fd]
            self._poller.unregister(fd)
        self._changed.pop(link, None)
        _drop(link, linger_ms)

    # Endpoint

    def connect(self, address: str, key: str | None = None) -> Peer:
        """See transport.Endpoint. Raises ConnectError for an address that is none."""
        with self._lock:
            raw = self._raw(zmq.DEALER, address)
            if key is not None:
                if self._keys is None:
                    raise ConnectError(f"{address} has a key and this end has none")
                _encrypt(raw, self._keys.own)
                raw.curve_serverkey = key.encode()
            link = _Socket(
                raw, raw.get_monitor_socket(zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED | _BAD_HANDSHAKE), address
            )
            try:
                raw.connect(address)
            except zmq.ZMQError as error:
                _drop(link, 0)
                raise ConnectError(f"{address}: {error.strerror}") from error
            self._watch(link)
            self._links[link] = link
            self._interrupt()
            return link

    def disconnect(self, peer: Peer) -> None:
        with self._lock:
            link = self._links.pop(peer, None)
            if link is not None:
                self._forget(link, LINGER_MS if link.connected else 0)
            self._partial.pop(peer, None)

    def send(self, peer: Peer, frames: Sequence[Frame]) -> None:
        with self._lock:
            if self._closed:
                return
            link = self._links.get(peer) if isinstance(peer, _Socket) else self._router
            if link is None or (link.router and peer not in self._incoming):
                return
            short = len(frames) == 2 and len(frames[1]) <= SHORT_BYTES
            parts: Sequence[list[Frame]] = ([b"".join(frames)],) if short else _parts(frames)
            for part in parts:
                waiting = sum(1 for other, _ in link.backlog if other == peer) if link.backlog else 0
                if not waiting and self._send_parts(link, peer, part) is not False:
                    continue
                if waiting >= MAX_BACKLOG and link.router:
                    return  # whoever asks and asks and takes no answer
                if waiting >= MAX_BACKLOG:
                    raise ClusterError(f"{MAX_BACKLOG} messages wait for {link.address}: it does not take them")
                link.backlog.append((peer, part))
            self._changed[link] = False
            if self._waiting:
                self._interrupt()

    def receive(self, timeout_s: float) -> Event | None:
        deadline = 0.0
        while True:
            with self._lock:
                if self._closed:
                    self._close_pipe()
                    return None
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
            ready = self._poller.poll(max(0.0, until - now) * 1000.0)
            with self._lock:
                self._waiting = False
                if not self._closed:
                    for fd, _ in ready:
                        self._note(fd)

    def wake(self) -> None:
        with self._lock:
            self._woken = True
            self._interrupt()

    def admit(self, keys: frozenset[str]) -> None:
        self._admitted = keys

    def probe(self, peer: Peer) -> bool:
        with self._lock:
            if isinstance(peer, _Socket):
                return peer in self._links
            return peer in self._incoming and self._reachable(peer)

    def diagnose(self, address: str) -> str:
        """Why nothing answers at an address, as far as a plain TCP connection tells; empty if that works."""
        if not address.startswith("tcp://"):
            return ""
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        try:
            with sockets.create_connection((host.strip("[]"), int(port)), timeout=1.0):
                return ""
        except OSError as error:
            return error.strerror or str(error)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for link in [*self._links.values(), *([self._router] if self._router else [])]:
                for peer, part in link.backlog:
                    if not self._try_send(link, peer, part):
                        break
                _drop(link, LINGER_MS if link.connected else 0)
            self._links.clear()
            self._router = None
            self._interrupt()
        if self._authenticator is not None:
            self._authenticator.stop()
        self._context.term()
        with self._lock:
            if not self._waiting:
                self._close_pipe()

    # Under the lock

    def _close_pipe(self) -> None:
        pipe, self._pipe = self._pipe, ()
        for fd in pipe:
            os.close(fd)

    def _interrupt(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if self._pipe:
                os.write(self._wake_write, b"!")

    def _note(self, fd: int) -> None:
        if fd == self._wake_read:
            with contextlib.suppress(BlockingIOError):
                os.read(fd, 4096)
            return
        watched = self._by_fd.get(fd)
        if watched is None:
            return
        link, is_monitor = watched
        self._changed[link] = not is_monitor
        if is_monitor:
            self._read_monitor(link)

    def _work(self) -> None:
        """Read the next message of the sockets that changed, send what waits for them, and look after lost peers."""
        if self._probe_at and time.monotonic() >= self._probe_at[0]:
            self._probe_at.popleft()
            for peer in list(self._incoming):
                if not self._reachable(peer):
                    self._incoming.pop(peer, None)
                    self._partial.pop(peer, None)
                    self._events.append(Loss(peer, "the connection ended"))
        while self._changed and not self._events:
            link = next(iter(self._changed))
            told = self._changed.pop(link)
            if link.backlog:
                self._send_waiting(link)
            if self._read(link, told):
                self._changed[link] = False

    def _send_waiting(self, link: _Socket) -> None:
        """Each peer's messages in their order; a peer that takes nothing holds up nobody else."""
        stuck: set[Peer] = set()
        left: deque[tuple[Peer, list[Frame]]] = deque()
        for peer, part in link.backlog:
            if peer in stuck or not self._try_send(link, peer, part):
                stuck.add(peer)
                left.append((peer, part))
        link.backlog = left

    def _read(self, link: _Socket, told: bool = False) -> bool:
        """Take one message. False if there is none. ``told``: there should be one."""
        raw = link.raw
        # Asking takes longer than a message does, and finding none by zmq.Again twice as long as asking.
        if not told and not int(raw.getsockopt(zmq.EVENTS)) & _POLLIN:
            return False
        try:
            peer: Peer = raw.recv(_LAST) if link.router else link
            frame = raw.recv(_LAST, False)
        except zmq.Again:
            return False
        if link.router:
            self._incoming[peer] = None if self._keys is None else str(frame["User-Id"])
        frames: list[Frame] = [frame.bytes]
        if not frame.more and frames[0]:
            if self._partial:
                self._partial.pop(peer, None)
            self._events.append(Arrival(peer, frames, self._incoming.get(peer)))
            return True
        while frame.more:
            frame = raw.recv(_LAST, copy=False)
            if len(frames) < 3:
                frames.append(frame.buffer)
        self._assemble(peer, frames)
        return True

    def _assemble(self, peer: Peer, frames: list[Frame]) -> None:
        header = frames[0]
        if not len(header):
            partial = self._partial.get(peer)
            if partial is None or len(frames) != 2:
                return  # "are you there?", or the rest of what was refused
            part = np.frombuffer(frames[1], np.uint8)
            end = partial.filled + part.nbytes
            if end > partial.payload.nbytes:
                del self._partial[peer]
                return
            partial.payload[partial.filled : end] = part
            partial.filled = end
            if end == partial.payload.nbytes:
                del self._partial[peer]
                self._arrive(peer, [partial.header, partial.payload.data])
            return
        self._partial.pop(peer, None)
        if len(frames) == 2 and len(frames[1]) >= PART_BYTES:
            try:
                (size,) = codec.peek(header, self._max_payload_bytes)
                if size > len(frames[1]):
                    partial = _Partial(header, np.empty(size, np.uint8), 0)
                    self._partial[peer] = partial
                    self._assemble(peer, [b"", frames[1]])
                    return
            except (WireError, ValueError, MemoryError):
                frames = [header]  # whoever decodes it says what is wrong
        self._arrive(peer, frames)

    def _arrive(self, peer: Peer, frames: list[Frame]) -> None:
        self._events.append(Arrival(peer, frames, self._incoming.get(peer)))

    def _read_monitor(self, link: _Socket) -> None:
        while True:
            try:
                event = parse_monitor_message(link.monitor.recv_multipart(zmq.NOBLOCK))["event"]
            except zmq.Again:
                return
            if link.router and event & _BAD_HANDSHAKE:
                self._turned_away += 1
                if self._turned_away == 1:
                    log.warning("turned away a stranger: no key, a wrong one, or not of this protocol (logged once)")
            elif link.router:
                now = time.monotonic()
                self._probe_at = deque(now + delay for delay in PROBE_DELAYS_S)
            elif event == zmq.EVENT_CONNECTED:
                link.connected = True
            elif link in self._links:
                while self._read(link):  # what came before the end counts
                    pass
                del self._links[link]
                self._partial.pop(link, None)
                reason = "the connection ended" if event == zmq.EVENT_DISCONNECTED else _BAD_HANDSHAKE_REASON
                self._forget(link, 0)
                self._events.append(Loss(link, reason))
                return

    def _reachable(self, peer: Peer) -> bool:
        if self._router is None:
            return False
        # This send, too, may use up what the descriptor had to tell.
        self._changed[self._router] = False
        return self._send_parts(self._router, peer, [b""]) is not None

    def _try_send(self, link: _Socket, peer: Peer, part: list[Frame]) -> bool:
        """False if it has to wait. A peer that is gone takes everything."""
        return self._send_parts(link, peer, part) is not False

    def _send_parts(self, link: _Socket, peer: Peer, part: list[Frame]) -> bool | None:
        """True: sent. False: its queue is full. None: nobody is there."""
        send, last = link.raw.send, part[-1]
        try:
            if isinstance(peer, bytes):
                send(peer, _MORE)
            if len(part) == 2:
                send(part[0], _MORE)
            send(last, _LAST, len(last) <= COPY_BYTES)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return None
            raise ClusterError(f"{link.address}: sending failed: {error.strerror}") from error
        return True


def _parts(frames: Sequence[Frame]) -> list[list[Frame]]:
    """A message as it travels: whole, or cut."""
    if len(frames) == 1:
        return [[frames[0]]]
    size = len(frames[1])
    if size <= PART_BYTES:
        return [list(frames)]
    payload = memoryview(frames[1])
    cuts = range(PART_BYTES, payload.nbytes, PART_BYTES)
    parts: list[list[Frame]] = [[frames[0], payload[:PART_BYTES]]]
    parts += [[b"", payload[cut : cut + PART_BYTES]] for cut in cuts]
    return parts


def _fd(raw: zmq.Socket[bytes]) -> int:
    fd = raw.getsockopt(zmq.FD)
    assert isinstance(fd, int)
    return fd


def _encrypt(raw: zmq.Socket[bytes], own: KeyPair) -> None:
    raw.curve_publickey = own.public.encode()
    raw.curve_secretkey = own.secret.encode()


def _drop(link: _Socket, linger_ms: int) -> None:
    link.raw.disable_monitor()
    link.monitor.close(0)
    link.raw.close(linger_ms)
