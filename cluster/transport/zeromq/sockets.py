"""Sockets: ZeroMQ's, with the options that the cluster needs: heartbeats, limits, keys, and a monitor for their ends."""

from __future__ import annotations

import errno
import socket as sockets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import zmq

from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.protocol.keys import KeyPair
from fogconv.cluster.transport.endpoint import Peer
from fogconv.cluster.transport.zeromq import dialing
from fogconv.cluster.transport.zeromq.chunking import PART_BYTES, Pace
from fogconv.cluster.transport.zeromq.dialing import Dial, heartbeats_of_router
from fogconv.cluster.transport.zeromq.unix_socket import SocketFile, answers, listen_at
from fogconv.errors import ClusterError, ConnectError, InputError
from fogconv.hardware.address import Address, parse_address

HIGH_WATER_MARK = 4096
"""Messages on their way out that ZeroMQ queues per connection."""
NO_MARK = 0
"""For what comes in. A mark that is reached stops heartbeats too; and where the other end then resets the connection, the
next heartbeat ends the process: libzmq 4.3.5 asserts that a connection with an error has no timer left."""
LINGER_MS = 500
SEND_BUFFER_BYTES = 512 << 10
"""The kernel's send buffer, which a heartbeat has to wait for."""
HALF_OPEN_MS = 5000
PLAIN_S = 1.0
"""The time limit of a plain connection that only checks whether a process listens."""
COPY_BYTES = 64 << 10
"""Up to this size a copy is cheaper than keeping the sender's memory until it is sent."""
MAX_BACKLOG = 65536
"""Messages beyond the high-water mark that wait here for one peer."""
BAD_HANDSHAKE = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL

_LAST = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)


@dataclass(eq=False, slots=True)
class Socket:
    """A DEALER, or the ROUTER, with its waiting messages."""

    raw: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    address: str
    dial: Dial | None = None
    """A DEALER's way to its connection; a ROUTER has none."""
    router: bool = False
    near: bool = False
    """Whether the other end is on this machine by its address, and needs no key."""
    sealed: bool = False
    """Whether what is sent is encrypted."""
    connected: bool = False
    opened: bool = False
    """Whether the handshake has succeeded, so that messages may be sent."""
    held: bool = False
    """Whether sending waits until `release`."""
    ahead: int = 0
    """The messages of the backlog that were sent before `hold`: they don't wait for `release`."""
    file: SocketFile | None = None
    """Of a Unix socket that listens."""
    trusted: bool = False
    """Whether payloads are accepted from the other end; a ROUTER keeps this for each peer."""
    backlog: deque[tuple[Peer, list[Frame]]] = field(default_factory=deque)
    behind: deque[list[Frame]] = field(default_factory=deque)
    """Of a DEALER: parts that go only when nothing else does, at their own pace."""
    pace: Pace = field(default_factory=Pace)
    push: Callable[..., Any] = field(init=False)
    """The socket's own ``send``, without pyzmq's layer in Python around it."""
    take: Callable[..., Any] = field(init=False)
    """Its ``recv``, without looking it up each time."""

    def __post_init__(self) -> None:
        self.push = _wait
        self.take = self.raw.recv
        if self.dial is None:
            self.open()

    def open(self) -> None:
        """Messages may be sent from now on."""
        self.opened = True
        self.settle()

    def settle(self) -> None:
        """Send or wait, by what is held."""
        if self.opened and (self.ahead or not self.held):
            self.push = super(zmq.Socket, self.raw).send
        else:
            self.push = _wait

    def follow(self, event: int) -> bool:
        """An event of a DEALER's monitor that is not its end: whether the link is open now."""
        self.connected |= event == zmq.EVENT_CONNECTED
        if self.dial is None or not self.dial.follow(event):
            return False
        self.open()
        return True

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The file descriptors that report changes: the socket's and its monitor's, which the doorkeeper has of a ROUTER."""
        own = _descriptor(self.raw)
        return (own,) if self.router else (own, _descriptor(self.monitor))

    def hold(self) -> None:
        """Let all sends from now on wait, as if the other end took nothing for now."""
        self.held, self.ahead = True, len(self.backlog)
        self.settle()

    def release(self) -> None:
        """Send again, if the link is open."""
        self.held = False
        self.settle()

    def put(self, peer: Peer, parts: Sequence[list[Frame]]) -> None:
        """Send the parts of a message, or let them wait behind those that wait for this peer. Raises ClusterError."""
        for part in parts:
            waiting = sum(1 for other, _ in self.backlog if other == peer) if self.backlog else 0
            if not waiting and self.send(peer, part) is not False:
                continue
            if waiting >= MAX_BACKLOG and self.router:
                return  # a peer that sends requests and reads no answer
            if waiting >= MAX_BACKLOG:
                raise ClusterError(f"{MAX_BACKLOG} messages wait for {self.address}: it does not take them")
            self.backlog.append((peer, part))

    @property
    def waits(self) -> bool:
        """Whether anything waits to be sent."""
        return bool(self.backlog or self.behind)

    def send_waiting(self) -> None:
        """Each peer's messages in their order; a peer that reads nothing does not delay the others. Then what is behind."""
        if self.backlog:
            self._send_backlog()
        while self.behind and self.pace.free and not self.backlog and self.send(self, self.behind[0]) is not False:
            self.behind.popleft()
            self.pace.sent(time.monotonic())

    def _send_backlog(self) -> None:
        if self.held:
            while self.ahead and self.send(*self.backlog[0]) is not False:
                self.backlog.popleft()
                self.ahead -= 1
            self.settle()
            return
        stuck: set[Peer] = set()
        left: deque[tuple[Peer, list[Frame]]] = deque()
        for peer, part in self.backlog:
            if peer in stuck or self.send(peer, part) is False:
                stuck.add(peer)
                left.append((peer, part))
        self.backlog = left

    def send(self, peer: Peer, part: Sequence[Frame]) -> bool | None:
        """True: sent. False: its queue is full. None: there is no peer; what is sent to a lost one counts as sent."""
        push = self.push
        try:
            if self.router:
                push(peer, _MORE)
            for frame in part[:-1]:
                push(frame, _MORE)
            last = part[-1]
            push(last, _LAST, len(last) <= COPY_BYTES)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return None
            raise ClusterError(f"{self.address}: sending failed: {error.strerror}") from error
        return True

    def drop(self, linger_ms: int) -> None:
        self.raw.disable_monitor()
        self.monitor.close(0)
        self.raw.close(linger_ms)
        if self.file is not None:
            self.file.remove()


def _wait(*_: object) -> NoReturn:
    """In place of ``send``, while the link is not open, or held."""
    raise zmq.Again


def bound(context: zmq.Context[zmq.Socket[bytes]], address: str, heartbeat_s: float, own: KeyPair | None) -> Socket:
    """A ROUTER; with keys it encrypts. Raises ConnectError where the address can't be bound, InputError where it is none."""
    parsed = parse_address(address, listening=True)
    raw = _raw(context, zmq.ROUTER)
    raw.setsockopt(zmq.IPV6, int(":" in parsed.host or not parsed.number))
    for option, value in heartbeats_of_router(heartbeat_s).items():
        raw.setsockopt(option, value)
    raw.setsockopt(zmq.ROUTER_MANDATORY, 1)
    if own is not None:
        _encrypt(raw, own)
        raw.curve_server = True
    monitor = _monitor(context, raw, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | BAD_HANDSHAKE)
    router = Socket(raw, monitor, address, router=True, connected=True)
    try:
        if parsed.scheme == "ipc":
            # ZeroMQ itself would remove whatever stands at the path, and leave permissions to the umask.
            descriptor, router.file = listen_at(Path(parsed.path))
            raw.setsockopt(zmq.USE_FD, descriptor)
        raw.bind(address)
    except ConnectError:
        router.drop(0)
        raise
    except zmq.ZMQError as error:
        router.drop(0)
        if error.errno == zmq.EADDRINUSE:
            raise ConnectError(f"{address} is in use: another worker may run there; choose another address") from error
        raise ConnectError(f"{address} can't be bound: {error.strerror}") from error
    return router


def connected(
    context: zmq.Context[zmq.Socket[bytes]], address: str, heartbeat_s: float, own: KeyPair | None, key: str | None
) -> Socket:
    """A DEALER that has yet to dial; with the peer's key it encrypts. Raises ConnectError for what is no address."""
    try:
        parsed = parse_address(address)
    except InputError as error:
        raise ConnectError(str(error)) from error
    if key is not None and own is None:
        raise ConnectError(f"{address} has a key and this end has none")
    try:
        raw = _raw(context, zmq.DEALER)
        monitor = raw.get_monitor_socket(dialing.EVENTS | zmq.EVENT_DISCONNECTED | BAD_HANDSHAKE)
    except zmq.ZMQError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise ConnectError(f"{address}: too many open files or sockets for one more link (see ulimit -n)") from error
        raise
    if key is not None and own is not None:
        _encrypt(raw, own)
        raw.curve_serverkey = key.encode()
    return Socket(
        raw, monitor, address, Dial(raw, parsed, heartbeat_s), near=key is None and parsed.local, sealed=key is not None
    )


def trouble(address: Address) -> str:
    """Why nothing answers at a number or a Unix socket, as far as a plain connection tells; empty if that works."""
    if address.scheme == "ipc":
        return answers(Path(address.path))
    try:
        sockets.create_connection((address.host, address.port or 0), timeout=PLAIN_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _monitor(context: zmq.Context[zmq.Socket[bytes]], raw: zmq.Socket[bytes], events: int) -> zmq.Socket[bytes]:
    """A monitor with room for any number of events: if a flood of them fills it, ZeroMQ's I/O thread stops."""
    address = f"inproc://monitor/{id(raw)}"
    raw.monitor(address, events)
    monitor: zmq.Socket[bytes] = context.socket(zmq.PAIR)
    monitor.setsockopt(zmq.RCVHWM, NO_MARK)
    monitor.setsockopt(zmq.LINGER, 0)
    monitor.connect(address)
    return monitor


def _raw(context: zmq.Context[zmq.Socket[bytes]], kind: int) -> zmq.Socket[bytes]:
    raw: zmq.Socket[bytes] = context.socket(kind)
    for option, value in (
        (zmq.LINGER, LINGER_MS),
        (zmq.SNDHWM, HIGH_WATER_MARK),
        (zmq.RCVHWM, NO_MARK),
        (zmq.MAXMSGSIZE, max(PART_BYTES, codec.MAX_HEADER_BYTES)),
        (zmq.SNDBUF, SEND_BUFFER_BYTES),
        (zmq.HANDSHAKE_IVL, HALF_OPEN_MS),
        (zmq.RECONNECT_IVL_MAX, 1000),
    ):
        raw.setsockopt(option, value)
    return raw


def _descriptor(raw: zmq.Socket[bytes]) -> int:
    fd = raw.getsockopt(zmq.FD)
    assert isinstance(fd, int)
    return fd


def _encrypt(raw: zmq.Socket[bytes], own: KeyPair) -> None:
    raw.curve_publickey = own.public.encode()
    raw.curve_secretkey = own.secret.encode()
