"""Mailbox: the messages of a program's Send and Recv steps.

A message of a run is identified by (run, origin rank, tag). Messages may arrive in any order: early ones wait in the
Inbox; those for a run that is over are dropped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.transport.dispatcher import Dispatcher
from fogconv.errors import ClusterError, TransportTimeout

if TYPE_CHECKING:
    from fogconv.cluster.transport.channel import Channel, Lease

T = TypeVar("T")

Payload = NDArray[np.uint8]
SHORT_BYTES = 4096


class Carrier(Protocol):
    """What carries the messages of a run that compiled code sends and receives."""

    run: int

    def channel_to(self, rank: int) -> Channel | None:
        """What they are sent over; None where only ``Mailbox.send`` can."""

    def channel_from(self, rank: int) -> Channel | None:
        """What they come over."""

    def lease(self) -> tuple[Lease, list[tuple[int, int]]] | None:
        """Let compiled code wait for messages in the place of this thread, with the (origin, tag) of those that have
        arrived. None where Python has to wait."""

    def end_lease(self) -> None: ...

    def count(self, sent_bytes: int, received_bytes: int) -> None:
        """So many bytes of payloads were sent and received by it."""


class Messages(Protocol):
    """The messages of a program that compiled code sends and receives where it can."""

    def open(self, carrier: Carrier) -> None:
        """A run begins."""

    def close(self) -> None:
        """It is over."""


class Mailbox(Protocol):
    """The interpreter's interface to the cluster, for one run."""

    def send(self, to: int, tag: int, payload: Frame) -> None:
        """Never waits for the peer. The bytes must not change until the run's end."""

    def open(self, messages: Messages) -> None:
        """Before a run: let compiled code send and receive these, where it can. For the others ``send`` and ``receive`` are
        called."""

    def room(self, nbytes: int) -> memoryview | None:
        """Memory for a payload that is then sent without a copy; None where there is no such memory."""

    def receive(self, origin: int, tag: int) -> Frame:
        """Wait for a message. Returns its bytes at any alignment; ``as_array`` makes an array of them.

        Raises TransportTimeout, WorkerLostError, RunAborted.
        """

    def proceed(self) -> None:
        """Returns at once if the run is still wanted. Raises what ``receive`` raises if it is not."""


@runtime_checkable
class GatherMailbox(Mailbox, Protocol):
    """The additional interface of a Gather; the master's mailbox has it."""

    given_up: set[int]
    """Ranks whose messages this run no longer waits for."""

    def receive_any(self, wanted: Sequence[tuple[int, int]], deadline: float | None) -> tuple[int, Frame | None] | None:
        """The first of several (origin, tag) that has arrived: its index in the list, and the payload (None: that rank is
        lost).

        None when time.monotonic() passes the deadline. Raises the errors of ``receive``.
        """

    def tell(self, event: str) -> None:
        """Report a fault that was handled."""

    def give_up(self, origin: int) -> None:
        """Do not wait for any more messages of this rank in this run."""

    def skip(self, origin: int) -> None:
        """A message of this rank was not needed: the run's end does not wait for the rank if it is late."""


class RunAborted(ClusterError):
    """The master gave this run, or what else it had asked for, up; or it is gone."""


class Inbox:
    """Payloads by (run, origin, tag), and the runs that failed. Not locked: the Dispatcher's lock guards it."""

    def __init__(self) -> None:
        self._payloads: dict[tuple[int, int, int], Frame] = {}
        self._failures: dict[int, Exception] = {}
        self._gone: dict[int, set[int]] = {}
        self._closed: set[int] = set()
        self._floor = 0
        self.bytes = 0
        self.most_bytes: float = math.inf
        """Above this a peer has sent payloads that no run takes: see ``make_room``."""

    def put(self, run: int, origin: int, tag: int, payload: Frame) -> bool:
        """Store a payload. False if its run is over."""
        if run <= self._floor or run in self._closed:
            return False
        key = (run, origin, tag)
        if key in self._payloads:
            self.bytes -= len(self._payloads[key])
        self.bytes += len(payload)
        self._payloads[key] = payload
        return True

    def make_room(self) -> int:
        """Of the origin of which most waits, forget what is furthest ahead, until half of ``most_bytes`` is free.

        Data of runs that will never be would else fill the room of those that will. The runs nearest are the last to suffer.
        Returns the origin.
        """
        held: dict[int, int] = {}
        for (_, origin, _), payload in self._payloads.items():
            held[origin] = held.get(origin, 0) + len(payload)
        worst = max(held, key=held.__getitem__)
        for key in sorted((key for key in self._payloads if key[1] == worst), reverse=True):
            if self.bytes <= self.most_bytes / 2:
                break
            self.bytes -= len(self._payloads.pop(key))
        return worst

    def holds(self, run: int) -> list[tuple[int, int]] | None:
        """The origins and tags of this run's payloads; None where it failed."""
        return None if run in self._failures else [key[1:] for key in self._payloads if key[0] == run]

    def take(self, run: int, origin: int, tag: int) -> Frame | None:
        """Remove and return the payload, or None. Raises the error that ``fail`` set for this run."""
        if run in self._failures:
            raise self._failures[run]
        payload = self._payloads.pop((run, origin, tag), None)
        if payload is not None:
            self.bytes -= len(payload)
        return payload

    def fail(self, run: int, error: Exception) -> None:
        """From now on ``take`` raises for this run; the first error stays."""
        if not self.over(run):
            self._failures.setdefault(run, error)

    def lose(self, run: int, rank: int) -> None:
        """Record the loss of a rank without which this run can end."""
        if not self.over(run):
            self._gone.setdefault(run, set()).add(rank)

    def gone(self, run: int) -> set[int]:
        return self._gone.get(run, set())

    def failure(self, run: int) -> Exception | None:
        return self._failures.get(run)

    def close_through(self, run: int) -> None:
        """Close this run and all before it."""
        for key in [key for key in self._payloads if key[0] <= run]:
            self.bytes -= len(self._payloads.pop(key))
        for number in [number for number in self._failures if number <= run]:
            del self._failures[number]
        self._floor = max(self._floor, run)
        self._closed = {number for number in self._closed if number > self._floor}

    def close(self, run: int) -> None:
        """The run is over: drop its messages, also those that arrive later."""
        self._failures.pop(run, None)
        self._gone.pop(run, None)
        self._closed.add(run)
        while self._floor + 1 in self._closed:
            self._floor += 1
            self._closed.discard(self._floor)
        for key in [key for key in self._payloads if key[0] == run]:
            self.bytes -= len(self._payloads.pop(key))

    def over(self, run: int) -> bool:
        return run <= self._floor or run in self._closed


def no_channel(rank: int) -> None:
    """There is none to any rank."""


def always() -> bool:
    return True


class Ways(NamedTuple):
    """The channels of a run's messages ``to`` ranks and from their ``origin``. ``alone``: whether no other run is under way
    here; compiled code that waits would keep its turn, and the threads of its kernels."""

    to: Callable[[int], Channel | None] = no_channel
    origin: Callable[[int], Channel | None] = no_channel
    alone: Callable[[], bool] = always


class RunMailbox:
    """The Mailbox of one run on one rank; ``post(to, tag, payload)`` sends a message."""

    def __init__(
        self,
        board: Dispatcher,
        inbox: Inbox,
        run: int,
        post: Callable[[int, int, Frame], None],
        timeout_s: float,
        ways: Ways = Ways(),
    ) -> None:
        self.run = run
        self.sent_bytes = 0
        self.received_bytes = 0
        self.channel_to, self.channel_from, self._alone = ways
        self._board = board
        self._inbox = inbox
        self._post = post
        self._timeout_s = timeout_s
        self.given_up: set[int] = set()
        self.skipped: set[int] = set()
        self.events: list[str] = []

    def send(self, to: int, tag: int, payload: Frame) -> None:
        self.sent_bytes += len(payload)
        self._post(to, tag, payload)

    def open(self, messages: Messages) -> None:
        messages.open(self)

    def lease(self) -> tuple[Lease, list[tuple[int, int]]] | None:
        board = self._board
        with board.lock:
            held = self._inbox.holds(self.run) if self._alone() else None
            lease = None if held is None else board.lease()
            return None if lease is None or held is None else (lease, held)

    def end_lease(self) -> None:
        self._board.end_lease()

    def count(self, sent_bytes: int, received_bytes: int) -> None:
        self.sent_bytes += sent_bytes
        self.received_bytes += received_bytes

    def room(self, nbytes: int) -> memoryview | None:
        return self._board.endpoint.room(nbytes)

    def receive(self, origin: int, tag: int) -> Frame:
        frame = cast(Frame | None, self._wait(self._inbox.take, self._timeout_s, self.run, origin, tag))
        if frame is None:
            raise TransportTimeout(
                f"no message from rank {origin} (run {self.run}, message {tag}) within {self._timeout_s:g} s; "
                "a slower cluster needs a longer --timeout"
            )
        self.received_bytes += len(frame)
        return frame

    def _wait(self, ready: Callable[..., T | None], timeout_s: float, *about: Any) -> T | None:
        return self._board.wait(ready, timeout_s, *about)

    def proceed(self) -> None:
        failure = self._inbox.failure(self.run)
        if failure is not None:
            raise failure

    def receive_any(self, wanted: Sequence[tuple[int, int]], deadline: float | None) -> tuple[int, Frame | None] | None:
        """See GatherMailbox."""

        def ready() -> tuple[int, Frame | None] | None:
            gone = self._inbox.gone(self.run)
            for index, (origin, tag) in enumerate(wanted):
                frame = self._inbox.take(self.run, origin, tag)
                if frame is not None or origin in gone:
                    return index, frame
            return None

        limit = self._timeout_s if deadline is None else max(0.0, deadline - time.monotonic())
        found = self._wait(ready, limit)
        if found is None:
            if deadline is None:
                origins = sorted({origin for origin, _ in wanted})
                raise TransportTimeout(f"no message from ranks {origins} (run {self.run}) within {self._timeout_s:g} s")
            return None
        index, frame = found
        if frame is not None:
            self.received_bytes += len(frame)
        return index, frame

    def tell(self, event: str) -> None:
        self.events.append(event)

    def give_up(self, origin: int) -> None:
        self.given_up.add(origin)
        self.skipped.add(origin)

    def skip(self, origin: int) -> None:
        self.skipped.add(origin)


def as_array(frame: Frame) -> Payload:
    """A frame as bytes that start at a multiple of 16; copied if they don't.

    Small ZeroMQ frames have any alignment in its read buffer; Numba would compile another kernel for unaligned arrays.
    """
    array: Payload = np.frombuffer(frame, np.uint8)
    # Finding an array's address takes longer than copying a short one.
    return array.copy() if len(array) <= SHORT_BYTES or array.ctypes.data % 16 else array
