"""The far ends of the honesty checks, run inside the nodes: a source and a sink of bytes, and a counter of work.

    python -I -S probe.py sink PORT            accept one connection; print the bytes and seconds of its steady part
    python -I -S probe.py source HOST PORT S   send for S seconds
    python -I -S probe.py work S               print a line, then the units of work done in S seconds, and the pauses in them

Standard library only: it must start quickly, even in a node with a tenth of a core.
"""

from __future__ import annotations

import socket
import sys
import time

CHUNK = 1 << 20
UNIT = range(2000)
PAUSE_S = 0.5e-3
"""A unit of work takes a tenth of this; a longer one was interrupted by the quota."""
WARM_UP_S = 0.2
"""The time left out at the start: TCP's slow start and the shaper's burst."""


def sink(port: int) -> None:
    with socket.create_server(("", port)) as server:
        print("listening", flush=True)
        connection, _ = server.accept()
        buffer = bytearray(CHUNK)
        opened = time.monotonic()
        start, last, count = 0.0, 0.0, 0
        while received := connection.recv_into(buffer):
            now = time.monotonic()
            if now - opened < WARM_UP_S:
                start = last = now
                continue
            count, last = count + received, now
    print(count, last - start, flush=True)


def source(host: str, port: int, duration_s: float) -> None:
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.settimeout(None)
        block = memoryview(bytes(CHUNK))
        until = time.monotonic() + duration_s + WARM_UP_S
        while time.monotonic() < until:
            connection.sendall(block)


def work(duration_s: float) -> None:
    print("working", flush=True)
    now = time.monotonic()
    until = now + duration_s
    done = pauses = 0
    while now < until:
        for _ in UNIT:
            pass
        done += 1
        before, now = now, time.monotonic()
        pauses += now - before > PAUSE_S
    print(done, pauses, flush=True)


if __name__ == "__main__":
    role, *rest = sys.argv[1:]
    if role == "sink":
        sink(int(rest[0]))
    elif role == "source":
        source(rest[0], int(rest[1]), float(rest[2]))
    else:
        work(float(rest[0]))
