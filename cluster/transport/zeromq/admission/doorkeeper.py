"""Doorkeeper: ends connections of unknown peers that take too much of a bound socket: connections, or bytes.

ZeroMQ can't: its high-water mark counts whole messages, its size limit counts one frame, and it drops no peer. But its
monitor reports the descriptor of each accepted connection. The system reports the received bytes (TCP_INFO), and when a
connection is reset by its descriptor, ZeroMQ sees it end.

The descriptors are ZeroMQ's: it may close one at any moment, and the system may reuse its number. So each one is examined
through a duplicate, placed over one descriptor reserved for this, and acted on only if the system's cookie for the
connection is still the original one. This needs no free descriptor, which strangers may have used up.

A thread of its own does this, because strangers don't wait until a kernel has run. Strangers wake it when they send. It
checks ten times a second while there are connections, and sleeps while there are none.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import socket as sockets
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import zmq
from zmq.utils.monitor import parse_monitor_message

from fogconv.cluster.transport.zeromq.admission.register import Account, Register, Visitor, origin_of
from fogconv.cluster.transport.zeromq.sockets import BAD_HANDSHAKE

log = logging.getLogger("fogconv.transport")

LOOK_S = 0.1
"""The interval of checks of admitted peers: a message that never ends may exceed the memory limit by what arrives in it."""
STRANGERS_S = 1.0
"""The interval of checks of strangers that did not send: one may be mistaken for an earlier one with its descriptor."""
PAUSE_S = 0.001
"""The pause after a check: a peer that sends byte by byte must not keep this thread running."""

_LINUX = sys.platform.startswith("linux")
_TCP_INFO_BYTES = 256
_RECEIVED = struct.Struct("<Q")
_ESTABLISHED = b"\x01"
"""Its first byte, tcpi_state, of a connection that neither end has closed."""
_RECEIVED_AT = 128
"""Where struct tcp_info (linux/tcp.h) has tcpi_bytes_received."""
_NO_ADDRESS = struct.pack("H14x", sockets.AF_UNSPEC)
"""Connecting to this is how Linux resets a TCP connection (tcp_disconnect)."""
_SO_COOKIE = 57
_COOKIE_BYTES = 8


class Doorkeeper:
    """Watches what ``monitor`` reports of a bound socket; only this thread uses the monitor from now on.

    ``has_room(nbytes)``: whether payloads may still take so much. ``ended()`` is called when a connection has ended,
    ``turned_away()`` when a handshake failed, from this thread. Without Linux connections are neither counted nor measured.
    """

    def __init__(
        self,
        monitor: zmq.Socket[bytes],
        ended: Callable[[], None],
        turned_away: Callable[[], None],
        register: Register | None = None,
        has_room: Callable[[int], bool] = lambda nbytes: True,
    ) -> None:
        self._monitor = monitor
        self._ended = ended
        self._turned_away = turned_away
        self._register = Register() if register is None else register
        self._has_room = has_room
        self._lock = threading.Lock()
        self._wake_read, self._wake_write = os.pipe()
        self._hand = _Hand()
        # On other systems there is no register of strangers, and only the monitor is polled.
        self._poll = select.epoll() if _LINUX else select.poll()
        self._poll.register(self._wake_read, select.POLLIN)
        fd = monitor.getsockopt(zmq.FD)
        assert isinstance(fd, int)
        self._monitor_fd = fd
        self._poll.register(fd, select.POLLIN)
        self._over = False
        self._thread = threading.Thread(target=self._live, name="doorkeeper", daemon=True)
        self._thread.start()

    def admit(self, fd: int, account: Account) -> None:
        """The worker trusts the peer of this connection, and notes in the account when it receives from it."""
        with self._lock:
            found = self._hand.identify(fd)
            if found is None:
                return  # it is gone, or nothing is counted on this system
            self._register.admit(fd, found.identity, account)
        with contextlib.suppress(OSError, ValueError):
            self._poll.unregister(fd)

    def dismiss(self, fd: int) -> None:
        """It does no more."""
        with self._lock:
            found = self._hand.identify(fd)
            if found is None:
                return
            self._register.dismiss(fd, found.identity, found.received)
        self._watch(fd)

    def settle(self, fd: int, frames: int, nbytes: int) -> None:
        """A stranger's message was read: so many frames of so many bytes together."""
        with self._lock:
            self._register.settle(fd, frames, nbytes, time.monotonic())

    def show_out(self, fd: int) -> None:
        """End this connection."""
        with self._lock:
            self._end(self._register.show_out(fd))

    def stop(self) -> None:
        """Again: nothing."""
        with self._lock:
            if self._over:
                return
            self._over = True
        os.write(self._wake_write, b"!")
        self._thread.join()
        if isinstance(self._poll, select.epoll):
            self._poll.close()
        self._hand.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    # The thread

    def _live(self) -> None:
        self._read_monitor()
        admitted_at = strangers_at = time.monotonic()
        while not self._over:
            ready = self._poll.poll(LOOK_S if len(self._register) else None)
            fds = {fd for fd, _ in ready}
            if self._wake_read in fds:
                return
            if self._monitor_fd in fds:
                self._read_monitor()
            now = time.monotonic()
            with self._lock:
                everybody = now - strangers_at >= STRANGERS_S
                for visitor in self._register.strangers:
                    if everybody or visitor.fd in fds:
                        self._look(visitor)
                if now - admitted_at >= LOOK_S:
                    for visitor in self._register.admitted:
                        self._look(visitor)
                    admitted_at = now
            if everybody:
                strangers_at = now
            if fds - {self._monitor_fd}:
                time.sleep(PAUSE_S)

    def _read_monitor(self) -> None:
        while True:
            try:
                told = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            event, fd = told["event"], told["value"]
            if event == zmq.EVENT_ACCEPTED:
                self._arrive(fd)
            elif event & BAD_HANDSHAKE:
                self._turned_away()
            else:
                self._depart(fd)
                self._ended()

    def _arrive(self, fd: int) -> None:
        with self._lock:
            found = self._hand.identify(fd)
            if found is None:
                return  # it is gone
            self._end(self._register.arrive(Visitor(fd, found.identity, found.origin, time.monotonic())))
            visitor = self._register.get(fd)
            stranger = visitor is not None and not visitor.admitted and not visitor.leaving
        if stranger:
            self._watch(fd)

    def _depart(self, fd: int) -> None:
        """A connection with this descriptor ended: the one that is known, or, where that lasts, an earlier one whose
        descriptor it was given."""
        with self._lock:
            visitor = self._register.get(fd)
            if visitor is None:
                return
            with self._hand.over(visitor) as mine:
                lasts = mine and self._hand.lasts()
            if not lasts:
                self._register.leave(fd)

    def _watch(self, fd: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._poll.register(fd, select.EPOLLIN | select.EPOLLET)

    # Under the lock

    def _look(self, visitor: Visitor) -> None:
        with self._hand.over(visitor) as mine:
            received = self._hand.received() if mine else None
        if received is None:
            self._register.leave(visitor.fd)  # its descriptor is closed, or another's
            return
        if visitor.admitted is None:
            self._end(self._register.measure(visitor.fd, received))
        elif out := self._register.measure_admitted(visitor.fd, received, self._has_room):
            log.warning("ended the connection of a peer that sent %.0f MB without an end", visitor.owed / 1e6)
            self._end(out)

    def _end(self, visitors: list[Visitor]) -> None:
        for visitor in visitors:
            with self._hand.over(visitor) as mine:
                if mine:
                    self._hand.shut()


@dataclass(frozen=True, slots=True)
class _Sight:
    """A connection as it was seen: the system's cookie for it, where it comes from, and the bytes that came over it."""

    identity: bytes
    origin: str
    received: int


class _Hand:
    """One descriptor that is laid over others to look at them. Not for two threads at a time."""

    def __init__(self) -> None:
        self._socket = sockets.socket(sockets.AF_INET, sockets.SOCK_STREAM)
        self._disconnect = ctypes.CDLL(None).connect
        self._nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def identify(self, fd: int) -> _Sight | None:
        """The connection that a descriptor has now; None where there is none, or the system does not tell."""
        with self._laid_over(fd) as laid:
            if not laid or not _LINUX:
                return None
            try:
                peer = self._socket.getpeername()
                origin = origin_of(peer[0]) if isinstance(peer, tuple) else "here"
                return _Sight(self._cookie(), origin, self.received())
            except OSError:
                return None

    @contextlib.contextmanager
    def over(self, visitor: Visitor) -> Iterator[bool]:
        """For as long as this lasts the connection is not given away; False where it is another's already."""
        with self._laid_over(visitor.fd) as laid:
            yield laid and self._cookie() == visitor.identity

    def received(self) -> int:
        """The bytes that came over the connection that the hand lies over; 0 for a Unix socket, which does not count."""
        info = self._tcp_info()
        return int(_RECEIVED.unpack_from(info, _RECEIVED_AT)[0]) if len(info) >= _RECEIVED_AT + _RECEIVED.size else 0

    def lasts(self) -> bool:
        """Whether the connection that the hand lies over is established; False for a Unix socket, which does not tell."""
        return self._tcp_info()[:1] == _ESTABLISHED

    def _tcp_info(self) -> bytes:
        try:
            return self._socket.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            return b""

    def shut(self) -> None:
        """End the connection that the hand lies over.

        What has come of it is thrown away: after a mere shutdown ZeroMQ would still read megabytes.
        """
        with contextlib.suppress(OSError):
            if self._disconnect(self._socket.fileno(), _NO_ADDRESS, len(_NO_ADDRESS)) != 0:
                self._socket.shutdown(sockets.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()
        os.close(self._nothing)

    @contextlib.contextmanager
    def _laid_over(self, fd: int) -> Iterator[bool]:
        try:
            os.dup2(fd, self._socket.fileno(), inheritable=False)
        except OSError:
            yield False
            return
        try:
            yield True
        finally:
            os.dup2(self._nothing, self._socket.fileno(), inheritable=False)

    def _cookie(self) -> bytes:
        try:
            return self._socket.getsockopt(sockets.SOL_SOCKET, _SO_COOKIE, _COOKIE_BYTES)
        except OSError:  # it is no socket
            return b""
