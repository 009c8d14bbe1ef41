"""A TCP proxy on loopback between two ends: it delays, cuts and corrupts what passes through."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable

READ_BYTES = 64 << 10
ACCEPT_S = 0.1

Alter = Callable[[int, bytes], bytes]
"""(bytes that passed before, the next ones) → what is passed on instead."""


def unaltered(before: int, chunk: bytes) -> bytes:
    return chunk


class Proxy:
    """Listens on a free port of loopback and passes bytes to ``port``, each ``delay_s`` later, in either direction.

    ``to_worker`` and ``to_master`` may alter bytes; ``connections`` counts the connections that were made.
    """

    def __init__(
        self, port: int, delay_s: float = 0.0, *, to_worker: Alter = unaltered, to_master: Alter = unaltered
    ) -> None:
        self.delay_s = delay_s
        self.to_worker = to_worker
        self.to_master = to_master
        self.passed = [0, 0]
        """Bytes to the worker and to the master."""
        self.connections = 0
        self._to = port
        self._closed = False
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(ACCEPT_S)
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """End the connections that there are; new ones are let through."""
        with self._lock:
            ends, self._open = self._open, set()
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._closed = True
        self.cut()
        for thread in self._threads:
            thread.join(60.0)
        self._listener.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except TimeoutError:
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                near.close()
                continue
            self.connections += 1
            with self._lock:
                self._open |= {near, far}
            self._carry(near, far, 0)
            self._carry(far, near, 1)

    def _carry(self, source: socket.socket, target: socket.socket, direction: int) -> None:
        line: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        source.settimeout(None)
        self._start(self._read, source, line)
        self._start(self._write, target, line, direction)

    def _read(self, source: socket.socket, line: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        chunk = b"?"
        while chunk:
            try:
                chunk = source.recv(READ_BYTES)
            except OSError:
                chunk = b""
            line.put((time.monotonic() + self.delay_s, chunk))

    def _write(self, target: socket.socket, line: queue.SimpleQueue[tuple[float, bytes]], direction: int) -> None:
        passed = 0
        while True:
            due, chunk = line.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not chunk:
                with contextlib.suppress(OSError):
                    target.shutdown(socket.SHUT_RDWR)
                return
            alter = self.to_master if direction else self.to_worker
            with contextlib.suppress(OSError):
                target.sendall(alter(passed, chunk))
            passed += len(chunk)
            self.passed[direction] += len(chunk)
