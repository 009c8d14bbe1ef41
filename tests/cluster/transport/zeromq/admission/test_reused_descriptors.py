"""A descriptor's number is used again at once: reports of an earlier connection must not count for a later one.

The doorkeeper's monitor is scripted here, and the connections are real.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import zmq

from fogconv.cluster.transport.zeromq.admission.doorkeeper import Doorkeeper
from fogconv.cluster.transport.zeromq.admission.register import STRANGER_BYTES, Account

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere connections are not counted"),
]

PATIENCE_S = 60.0
MUCH = bytes(2 * STRANGER_BYTES)


class Door:
    """A doorkeeper, and ZeroMQ's side of it: ``report`` is its monitor, ``place`` what lies at the one descriptor."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        context = stack.enter_context(zmq.Context())
        self._reports = stack.enter_context(context.socket(zmq.PAIR))
        monitor = stack.enter_context(context.socket(zmq.PAIR))
        self._reports.bind("inproc://door")
        monitor.connect("inproc://door")
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._stack = stack
        self.fd = os.open(os.devnull, os.O_RDONLY)
        stack.callback(os.close, self.fd)
        self.ended = 0
        self.keeper = Doorkeeper(monitor, self._count, lambda: None)
        stack.callback(self.keeper.stop)

    def _count(self) -> None:
        self.ended += 1

    def report(self, event: int) -> None:
        self._reports.send_multipart([struct.pack("=HI", event, self.fd), b"tcp://127.0.0.1:1"])

    def accepted(self) -> None:
        self.report(zmq.EVENT_ACCEPTED)

    def connected(self) -> socket.socket:
        """The client's end of a new connection, whose other end takes the descriptor; an earlier one is closed by that."""
        client = self._stack.enter_context(socket.create_connection(self._listener.getsockname()))
        served, _ = self._listener.accept()
        os.dup2(served.fileno(), self.fd)
        served.close()
        return client

    def until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not reached():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def over(self) -> None:
        """The end of a connection that was accepted before; returns when the doorkeeper knows it, and all before it."""
        before = self.ended
        self.report(zmq.EVENT_DISCONNECTED)
        self.until(lambda: self.ended > before)


@pytest.fixture
def door() -> Iterator[Door]:
    with contextlib.ExitStack() as stack:
        yield Door(stack)


def is_cut(client: socket.socket, within_s: float = 3.0) -> bool:
    """Whether a connection that brings much, and no message, is ended; within two rounds of looks, if not told otherwise."""
    client.settimeout(within_s)
    try:
        client.sendall(MUCH)
        return client.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_an_admitted_one_keeps_its_place_when_an_earlier_one_ends_after_it_was_admitted(door: Door) -> None:
    """The earlier one's arrival was known in time, and its end only when the later one spoke already."""
    door.connected()
    door.accepted()
    door.until(lambda: len(door.keeper._register) == 1)
    client = door.connected()
    door.keeper.admit(door.fd, Account())
    door.over()
    door.accepted()
    time.sleep(0.2)
    assert not is_cut(client)


def test_an_admitted_one_keeps_its_place_when_an_earlier_arrival_was_read_late(door: Door) -> None:
    """When the earlier one's arrival is read, the descriptor is the later one's already."""
    client = door.connected()
    door.accepted()
    door.until(lambda: len(door.keeper._register) == 1)
    door.keeper.admit(door.fd, Account())
    door.over()
    door.accepted()
    time.sleep(0.2)
    assert not is_cut(client)


def test_a_stranger_in_the_place_of_an_admitted_one_is_a_stranger(door: Door) -> None:
    door.connected()
    door.accepted()
    door.until(lambda: len(door.keeper._register) == 1)
    door.keeper.admit(door.fd, Account())
    client = door.connected()
    door.over()
    door.accepted()
    time.sleep(0.2)
    assert is_cut(client, PATIENCE_S)


def test_an_ended_connection_is_known_no_more(door: Door) -> None:
    client = door.connected()
    door.accepted()
    door.until(lambda: len(door.keeper._register) == 1)
    client.close()
    door.over()
    door.until(lambda: len(door.keeper._register) == 0)
