"""ZMTP: as much of ZeroMQ's wire protocol (RFC 23) as a stranger needs who doesn't keep to it."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from types import TracebackType

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
"""Of version 3.0, without encryption."""
TIMEOUT_S = 10.0

_MORE, _LONG, _COMMAND = 1, 2, 4


def ready(kind: bytes = b"DEALER") -> bytes:
    """The command that ends the handshake."""
    properties = b"".join(
        bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
        for name, value in ((b"Socket-Type", kind), (b"Identity", b""))
    )
    body = b"\x05READY" + properties
    return bytes([_COMMAND, len(body)]) + body


def frame(payload: bytes, *, more: bool = False) -> bytes:
    """A frame as it travels."""
    return head(len(payload), more=more) + payload


def head(size: int, *, more: bool = False) -> bytes:
    """What stands before a frame of so many bytes, which need never come."""
    if size < 256:
        return bytes([_MORE * more, size])
    return bytes([_MORE * more | _LONG]) + struct.pack(">Q", size)


class Stranger:
    """A connection that has shaken hands as ZeroMQ's DEALER does. Raises OSError where it is turned away."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT_S)
        self.socket.sendall(GREETING)
        self._take(len(GREETING))
        self.socket.sendall(ready())
        self._take_frame()

    def say(self, *frames: bytes) -> None:
        """One message."""
        last = len(frames) - 1
        self.socket.sendall(b"".join(frame(part, more=number < last) for number, part in enumerate(frames)))

    def flood(self, chunk: bytes, at_most: int) -> int:
        """Send the same bytes again and again until so many are gone, or the other end has had enough; the bytes sent."""
        sent = 0
        try:
            while sent < at_most:
                self.socket.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass
        return sent

    def closed(self, timeout_s: float) -> bool:
        """Whether the other end ends the connection within this time."""
        self.socket.settimeout(timeout_s)
        try:
            while self.socket.recv(1 << 16):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _take(self, count: int) -> bytes:
        taken = b""
        while len(taken) < count:
            more = self.socket.recv(count - len(taken))
            if not more:
                raise ConnectionResetError("turned away")
            taken += more
        return taken

    def _take_frame(self) -> bytes:
        flags = self._take(1)[0]
        size = struct.unpack(">Q", self._take(8))[0] if flags & _LONG else self._take(1)[0]
        return self._take(size)


def peak_bytes(pid: int) -> int:
    """The most memory that a process has held since ``forget_peak``."""
    return _status_kb(pid, "VmHWM:") << 10


def held_bytes(pid: int) -> int:
    """The memory that a process holds now."""
    return _status_kb(pid, "VmRSS:") << 10


def forget_peak(pid: int) -> None:
    """Let the peak start again from the present memory."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status_kb(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def silent(address: str, count: int) -> list[socket.socket]:
    """So many connections that never say a word, or as many as there are descriptors for."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    made = []
    for _ in range(count):
        try:
            made.append(socket.create_connection((host.strip("[]"), int(port)), timeout=2.0))
        except OSError:
            break
    return made
