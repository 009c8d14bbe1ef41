"""Connection: messages over a socket that never blocks, read by the thread that waits for them.

    head       kind u8 | 0 | header bytes u16 | payload bytes u32      (little endian)
    header     the message's first frame
    payload    its payload; or a reference to one in the sender's memory

Beside an encrypted link header and payload are sealed as one; of a longer payload the header is behind it, so that the
payload lies well in memory.

A message of more than DIRECT_BYTES is not for it: while a kernel runs no thread reads, and what has come waits in the
system's buffer, which is little larger.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket as sockets
import struct
import termios
from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.transport.endpoint import DIRECT_BYTES
from fogconv.cluster.transport.zeromq.direct.sealing import Seal

if TYPE_CHECKING:
    from fogconv.cluster.transport.channel import Channel

JOINED_BYTES = 4 << 10
"""Up to this size one copy is cheaper than a frame of its own."""
BUFFER_BYTES = 1 << 20
"""Of the system, for each direction, where it grants so much."""
QUEUED_BYTES = 192 << 10
"""With so many bytes on their way, the next message may not fit into the system's buffer (Linux grants 208 KB)."""
READ_BYTES = 64 << 10
MOST_HEADER_BYTES = 1 << 10

_HEAD = struct.Struct("<BBHI")
_PAYLOAD, _REFERENCE = 0, 1
_COUNT = struct.Struct("i")


class Connection:
    """One end of a direct connection. Not locked.

    ``send`` and ``read`` raise OSError when it is broken; whatever was on its way is then lost.
    """

    __slots__ = ("_filled", "_head", "_header", "_payload", "_raw", "_seal", "_tail", "channel", "fd", "on_way", "rest")

    def __init__(self, raw: sockets.socket, seal: Seal | None = None) -> None:
        self._raw = raw
        self._seal = seal
        self._head = b""
        self.fd = raw.fileno()
        self.on_way = array("q", (0,))
        """How many bytes may be on their way, at most: one number, which compiled code counts, too."""
        self.channel: Channel | None = None
        """Where compiled code sends over this connection, too, what both take while they do. Held while there is a rest."""
        self.rest = b""
        """The part of a message that waits for the system to take it: see ``flush``."""
        self._tail = b""
        self._header = b""
        self._payload: NDArray[np.uint8] | None = None
        self._filled = 0

    def share(self, go_on: Callable[[bytes], None], hear: Callable[[bytes], None]) -> Channel:
        """Let compiled code send and receive here, too, if it is not sealed. ``go_on`` and ``hear``: see `Channel`."""
        # Imported late: an idle worker needs no compiled code.
        from fogconv.cluster.transport.channel import Channel

        on_way, _ = self.on_way.buffer_info()
        self.channel = Channel(self.fd, on_way, QUEUED_BYTES, _head_of, go_on, hear)
        self.channel.note(self._whole)
        return self.channel

    @property
    def sealed(self) -> bool:
        return self._seal is not None

    def send(self, frames: Sequence[Frame]) -> bool:
        """Send a message. False where it is not taken: it is too long, too much is on its way already, or compiled code
        sends just now."""
        if self.rest:
            self.flush()
            if self.rest:
                return False
        channel = self.channel
        if channel is None:
            return self._send(frames)
        if not channel.take():
            return False
        try:
            return self._send(frames)
        finally:
            if not self.rest:
                channel.give()

    def _send(self, frames: Sequence[Frame]) -> bool:
        header, payload = frames[0], frames[-1]
        size = len(payload)
        if size > DIRECT_BYTES:
            return False
        head = _HEAD.pack(_PAYLOAD if len(frames) == 2 else _REFERENCE, 0, len(header), size)
        if self._seal is not None:
            return self._send_sealed(self._seal, head, header, payload)
        try:
            if size <= JOINED_BYTES:
                data = b"".join((head, header, payload))
                sent = self._raw.send(data)
                self.on_way[0] += sent
                if sent < len(data):
                    self.rest = data[sent:]
                return True
            if self._full(size):
                return False
            data = head + header
            sent, whole = self._raw.sendmsg((data, payload)), len(data) + size
            self.on_way[0] += sent
            if sent < whole:
                # A copy: the sender may use the payload's memory again before the rest goes out.
                self.rest = b"".join((data, payload))[sent:]
        except BlockingIOError:
            return False
        return True

    def _send_sealed(self, seal: Seal, head: bytes, header: Frame, payload: Frame) -> bool:
        # What is sealed has to be sent, because its number is used.
        if len(payload) > JOINED_BYTES and self._full(len(payload)):
            return False
        plain = (header, payload) if len(payload) <= JOINED_BYTES else (payload, header)
        sealed = seal.seal(b"".join(plain), head)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            sent = self._raw.sendmsg((head, sealed))
            self.on_way[0] += sent
        if sent < len(head) + len(sealed):
            self.rest = (head + sealed)[sent:]
        return True

    def flush(self) -> None:
        """Send what waits, as far as the system takes it."""
        with contextlib.suppress(BlockingIOError):
            while self.rest:
                sent = self._raw.send(self.rest)
                self.on_way[0] += sent
                self.rest = self.rest[sent:]
            if self.channel is not None:
                self.channel.give()

    @property
    def _whole(self) -> bool:
        """Whether what was read ended with a whole message."""
        return not self._tail and self._payload is None

    def read(self, before: bytes = b"") -> tuple[list[Sequence[Frame]], bool]:
        """The messages that have arrived, and whether more may come: False at the end. ``before``: what compiled code read.

        Raises OSError for a connection that broke, or whose other end sent what is no message.
        """
        messages: list[Sequence[Frame]] = []
        if before:
            self._take(before, messages)
        try:
            return messages, self._read(messages)
        finally:
            if self.channel is not None:
                self.channel.note(self._whole)

    def _read(self, messages: list[Sequence[Frame]]) -> bool:
        recv = self._raw.recv
        while True:
            try:
                if self._payload is None:
                    data = recv(READ_BYTES)
                    count = len(data)
                    if _HEAD.size < count < READ_BYTES and not self._tail and self._seal is None:
                        # One whole message, as most are: all that is done with it is here.
                        kind, _, header_size, size = _HEAD.unpack_from(data)
                        middle = _HEAD.size + header_size
                        if kind == _PAYLOAD and middle + size == count and header_size <= MOST_HEADER_BYTES:
                            whole = memoryview(data)
                            messages.append((data[_HEAD.size : middle], whole[middle:]))
                            return True
                    if count and not self._tail:
                        self._take(data, messages)
                    elif count:
                        self._take(self._tail + data, messages)
                    asked = READ_BYTES
                else:
                    room = self._payload.data[self._filled :]
                    asked = len(room)
                    count = self._raw.recv_into(room)
                    self._fill(count, messages)
            except BlockingIOError:
                return True
            if not count:
                if self._payload is not None or self._tail:
                    raise ConnectionResetError("the connection ended within a message")
                return False
            if count < asked:
                return True

    def _take(self, data: bytes, messages: list[Sequence[Frame]]) -> None:
        """The messages in these bytes. A longer one that is not complete gets memory of its own."""
        at, stop = 0, len(data)
        while stop - at >= _HEAD.size:
            kind, _, header_size, size = _HEAD.unpack_from(data, at)
            if header_size > MOST_HEADER_BYTES or size > DIRECT_BYTES or kind > _REFERENCE:
                raise ConnectionAbortedError(f"a message with a header of {header_size} and a payload of {size} bytes")
            begin = at + _HEAD.size
            if self._seal is not None:
                head, whole = data[at:begin], header_size + size + self._seal.tag_bytes
                if begin + whole > stop:
                    if size <= JOINED_BYTES:
                        break
                    self._head = head
                    at = begin + self._begin(data, begin, whole, messages)
                    continue
                at = begin + whole
                plain = self._seal.opened(data[begin:at], head)
                if size > JOINED_BYTES:
                    messages.append((plain[size:], plain[:size]))
                else:
                    messages.append((plain,) if not kind else (plain[:header_size], b"", plain[header_size:]))
                continue
            if begin + header_size + size == stop and size <= JOINED_BYTES and not kind:
                messages.append((data[begin:],))  # most messages
                at = stop
                break
            middle = begin + header_size
            end = middle + size
            if end <= stop:
                frames = (data[begin:middle], data[middle:end])
                messages.append(frames if not kind else (frames[0], b"", frames[1]))
                at = end
                continue
            if size <= JOINED_BYTES or middle > stop:
                break
            self._header = data[begin:middle]
            at = middle + self._begin(data, middle, size, messages)
        self._tail = data[at:]

    def _begin(self, data: bytes, at: int, size: int, messages: list[Sequence[Frame]]) -> int:
        """Memory for so many bytes, of which the first may be here. How many are."""
        self._payload, self._filled = np.empty(size, np.uint8), 0
        there = min(len(data) - at, size)
        self._payload[:there] = np.frombuffer(data, np.uint8, there, at)
        self._fill(there, messages)
        return there

    def _fill(self, count: int, messages: list[Sequence[Frame]]) -> None:
        """So many more bytes of a payload have come."""
        assert self._payload is not None
        self._filled += count
        if self._filled < len(self._payload):
            return
        payload, self._payload = self._payload, None
        if self._seal is None:
            messages.append((self._header, payload.data))
            return
        self._seal.open(payload.data, self._head)
        _, _, header_size, size = _HEAD.unpack(self._head)
        messages.append((payload[size : size + header_size].tobytes(), payload[:size].data))

    def _full(self, size: int) -> bool:
        """Whether so many bytes more may be too many on their way. The system is asked only if they may be: what was sent
        since it last said is an upper bound."""
        if self.on_way[0] + size <= QUEUED_BYTES:
            return False
        found = fcntl.ioctl(self.fd, termios.TIOCOUTQ, bytes(_COUNT.size))
        self.on_way[0] = _COUNT.unpack(found)[0]
        return self.on_way[0] + size > QUEUED_BYTES

    def close(self) -> None:
        if self.channel is not None and not self.rest:
            self.channel.end()
        self.channel = None
        self._raw.close()


def _head_of(header_bytes: int, payload_bytes: int) -> bytes:
    """What stands before a message with a payload, header and payload behind it, where nothing is sealed."""
    return _HEAD.pack(_PAYLOAD, 0, header_bytes, payload_bytes)


def tuned(raw: sockets.socket) -> sockets.socket:
    """A socket with the options of a direct connection."""
    raw.setblocking(False)
    for option in (sockets.SO_SNDBUF, sockets.SO_RCVBUF):
        raw.setsockopt(sockets.SOL_SOCKET, option, BUFFER_BYTES)
    if raw.family != sockets.AF_UNIX:
        raw.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)
    return raw
