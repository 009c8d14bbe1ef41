"""Sockets: ZeroMQ's, with the options that the cluster needs: heartbeats, limits, keys, and a monitor for their ends."""

from __future__ import annotations

import re
import resource
import socket as sockets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import zmq

from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.protocol.keys import KeyPair, is_local
from fogconv.cluster.transport.endpoint import Peer
from fogconv.cluster.transport.zeromq.chunking import PART_BYTES
from fogconv.errors import ConnectError

HIGH_WATER_MARK = 4096
"""Messages on their way out that ZeroMQ queues per connection."""
NO_MARK = 0
"""For what comes in. A mark that is reached stops heartbeats too; and where the other end then resets the connection, the
next heartbeat ends the process: libzmq 4.3.5 asserts that a connection with an error has no timer left."""
LINGER_MS = 500
SEND_BUFFER_BYTES = 512 << 10
"""What the kernel holds ahead of a heartbeat."""
HALF_OPEN_MS = 5000
MANY_DESCRIPTORS = 1 << 20
"""No process here needs more, whatever the system would let it have."""
PLAIN_S = 1.0
"""How long a plain connection may take that only looks whether somebody listens."""
BAD_HANDSHAKE = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL

_IPV4 = re.compile(r"tcp://[0-9.]+:")


@dataclass(eq=False, slots=True)
class Socket:
    """A DEALER, or the ROUTER, with what waits for it."""

    raw: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    address: str
    router: bool = False
    near: bool = False
    """Whether the other end is on this machine, as far as the address tells, and needs no key."""
    connected: bool = False
    trusted: bool = False
    """Whether payloads are taken from the other end; of a ROUTER this is said of each peer."""
    backlog: deque[tuple[Peer, list[Frame]]] = field(default_factory=deque)
    put: Callable[..., Any] = field(init=False)
    """The socket's own ``send``, without pyzmq's layer in Python around it."""
    take: Callable[..., Any] = field(init=False)
    """Its ``recv``, without looking it up each time."""

    def __post_init__(self) -> None:
        self.release()
        self.take = self.raw.recv

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The file descriptors that tell of changes: the socket's and its monitor's, but the doorkeeper has a ROUTER's."""
        own = _descriptor(self.raw)
        return (own,) if self.router else (own, _descriptor(self.monitor))

    def hold(self) -> None:
        """As if the other end took nothing for now: what is sent has to wait."""
        self.put = _held

    def release(self) -> None:
        """Send again."""
        self.put = super(zmq.Socket, self.raw).send

    def drop(self, linger_ms: int) -> None:
        self.raw.disable_monitor()
        self.monitor.close(0)
        self.raw.close(linger_ms)


def _held(*_: object) -> NoReturn:
    raise zmq.Again


def bound(context: zmq.Context[zmq.Socket[bytes]], address: str, heartbeat_s: float, own: KeyPair | None) -> Socket:
    """A ROUTER; with keys it encrypts. Raises ConnectError where the address can't be bound."""
    raw = _raw(context, zmq.ROUTER, address, heartbeat_s)
    raw.setsockopt(zmq.ROUTER_MANDATORY, 1)
    if own is not None:
        _encrypt(raw, own)
        raw.curve_server = True
    monitor = _monitor(context, raw, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | BAD_HANDSHAKE)
    router = Socket(raw, monitor, address, router=True, connected=True)
    try:
        # ZeroMQ takes the path of a Unix socket away from whoever listens there.
        if address.startswith("ipc://") and not trouble(address):
            raise zmq.ZMQError(zmq.EADDRINUSE)
        raw.bind(address)
    except zmq.ZMQError as error:
        router.drop(0)
        if error.errno == zmq.EADDRINUSE:
            raise ConnectError(f"{address} is in use: another worker may run there; choose another address") from error
        raise ConnectError(f"{address} can't be bound: {error.strerror}") from error
    return router


def connected(
    context: zmq.Context[zmq.Socket[bytes]], address: str, heartbeat_s: float, own: KeyPair | None, key: str | None
) -> Socket:
    """A DEALER; with the peer's key it encrypts. Raises ConnectError for an address that is none."""
    if key is not None and own is None:
        raise ConnectError(f"{address} has a key and this end has none")
    raw = _raw(context, zmq.DEALER, address, heartbeat_s)
    if key is not None and own is not None:
        _encrypt(raw, own)
        raw.curve_serverkey = key.encode()
    monitor = raw.get_monitor_socket(zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED | BAD_HANDSHAKE)
    link = Socket(raw, monitor, address, near=key is None and is_local(address))
    try:
        raw.connect(address)
    except zmq.ZMQError as error:
        link.drop(0)
        raise ConnectError(f"{address}: {error.strerror}") from error
    return link


def raise_descriptor_limit() -> int:
    """Let this process open as many descriptors as the system lets it; how many that are. Each connection takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MANY_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MANY_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError):
            return soft
    return most


def trouble(address: str) -> str:
    """Why nothing answers at an address, as far as a plain connection tells; empty if that works."""
    scheme, _, rest = address.partition("://")
    try:
        if scheme == "ipc":
            with sockets.socket(sockets.AF_UNIX) as plain:
                plain.settimeout(PLAIN_S)
                plain.connect("\0" + rest[1:] if rest.startswith("@") else rest)
        elif scheme == "tcp":
            host, _, port = rest.rpartition(":")
            sockets.create_connection((host.strip("[]"), int(port)), timeout=PLAIN_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _monitor(context: zmq.Context[zmq.Socket[bytes]], raw: zmq.Socket[bytes], events: int) -> zmq.Socket[bytes]:
    """A monitor with room for any number of events: where a flood of them fills it, ZeroMQ's I/O thread stands still."""
    address = f"inproc://monitor/{id(raw)}"
    raw.monitor(address, events)
    monitor: zmq.Socket[bytes] = context.socket(zmq.PAIR)
    monitor.setsockopt(zmq.RCVHWM, NO_MARK)
    monitor.setsockopt(zmq.LINGER, 0)
    monitor.connect(address)
    return monitor


def _raw(context: zmq.Context[zmq.Socket[bytes]], kind: int, address: str, heartbeat_s: float) -> zmq.Socket[bytes]:
    raw: zmq.Socket[bytes] = context.socket(kind)
    for option, value in (
        (zmq.LINGER, LINGER_MS),
        (zmq.SNDHWM, HIGH_WATER_MARK),
        (zmq.RCVHWM, NO_MARK),
        (zmq.MAXMSGSIZE, max(PART_BYTES, codec.MAX_HEADER_BYTES)),
        (zmq.SNDBUF, SEND_BUFFER_BYTES),
        (zmq.IPV6, int(not _IPV4.match(address))),
        (zmq.HANDSHAKE_IVL, HALF_OPEN_MS),
        (zmq.RECONNECT_IVL_MAX, 1000),
        # Together heartbeat_s: each beat wakes a thread at either end, so not more often than that needs.
        (zmq.HEARTBEAT_IVL, max(1, int(400 * heartbeat_s))),
        (zmq.HEARTBEAT_TIMEOUT, max(1, int(600 * heartbeat_s))),
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
