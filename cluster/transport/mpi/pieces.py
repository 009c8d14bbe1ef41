"""Pieces: a long payload that other messages may overtake goes to its rank piece by piece, each a message of MPI's own.

The header, marked, goes before. The receiver expects one piece after the other; the sender has a few on their way, each
until the other end takes it, so that a message sent meanwhile waits for these alone.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.protocol.codec import Frame

TAG = 2
MARK = b"FOGB"
"""Stands before the header of a payload in pieces."""
PIECE_BYTES = 256 << 10
FLYING = 2
"""Pieces for one rank that are on their way at once."""


@dataclass(slots=True, eq=False)
class Outgoing:
    """A frame that MPI reads until the request is done."""

    to: int
    frame: Frame
    request: Any
    gone: bool = False


@dataclass(slots=True)
class _Leaving:
    """A message of which some pieces are not sent yet, or on their way. The header is empty once it is sent."""

    header: Frame
    pieces: deque[Frame]
    flying: list[Outgoing] = field(default_factory=list)


@dataclass(slots=True)
class _Coming:
    header: Frame
    payload: NDArray[np.uint8]
    filled: int = 0
    request: Any = None


class Pieces:
    """Of one communicator. Called by the thread whose turn with MPI it is.

    ``done(request)``: whether MPI has completed it, possibly because the other end is lost. ``survive(error)``: record lost
    ranks. ``dead`` has them. ``post(rank, frame)`` sends a header.
    """

    def __init__(
        self,
        mpi: Any,
        comm: Any,
        dead: set[int],
        done: Callable[[Any], bool],
        survive: Callable[[Any], None],
        post: Callable[[int, Frame], object],
    ) -> None:
        self._mpi, self._comm, self._dead = mpi, comm, dead
        self._done, self._survive, self._post = done, survive, post
        self._leaving: dict[int, deque[_Leaving]] = defaultdict(deque)
        self._coming: dict[int, deque[_Coming]] = defaultdict(deque)

    @property
    def under_way(self) -> bool:
        """Whether pieces are to be sent, or expected."""
        if not self._leaving and not self._coming:
            return False
        ranks = [*self._leaving, *self._coming]
        return any(rank not in self._dead for rank in ranks)

    def put(self, to: int, header: Frame, payload: Frame) -> None:
        data = memoryview(payload)
        pieces = deque[Frame](data[place : place + PIECE_BYTES] for place in range(0, data.nbytes, PIECE_BYTES))
        if to not in self._dead:
            self._leaving[to].append(_Leaving(MARK + header, pieces))

    def expect(self, origin: int, header: Frame, size: int) -> None:
        """A header has come, without its mark; its payload will, in pieces."""
        self._coming[origin].append(_Coming(header, np.empty(size, np.uint8)))

    def give_up(self) -> None:
        """Send no more."""
        self._leaving.clear()

    def send(self) -> list[Outgoing]:
        """Send to each rank as many pieces as may be on their way. Those are new; ``gone`` is to be set when they are."""
        sent: list[Outgoing] = []
        for to, messages in list(self._leaving.items()):
            if not messages or to in self._dead:
                del self._leaving[to]
                continue
            message = messages[0]
            if message.header:
                self._post(to, message.header)
                message.header = b""
            message.flying = [part for part in message.flying if not part.gone]
            try:
                while message.pieces and len(message.flying) < FLYING:
                    piece = message.pieces.popleft()
                    # A synchronous one is done when the other end takes it.
                    part = Outgoing(to, piece, self._comm.Issend([piece, self._mpi.BYTE], to, TAG))
                    message.flying.append(part)
                    sent.append(part)
            except self._mpi.Exception as error:
                self._survive(error)
            if not message.pieces and not message.flying:
                messages.popleft()
        return sent

    def take(self) -> list[tuple[int, list[Frame]]]:
        """The messages, by rank, of which the last piece has come."""
        found: list[tuple[int, list[Frame]]] = []
        for origin, messages in list(self._coming.items()):
            while messages and origin not in self._dead and self._advance(origin, messages[0]):
                message = messages.popleft()
                found.append((origin, [message.header, message.payload.data]))
            if not messages:
                del self._coming[origin]
        return found

    def _advance(self, origin: int, message: _Coming) -> bool:
        """Take the pieces that have come, and expect the next one. Whether the message is whole."""
        while True:
            if message.request is not None:
                if not self._done(message.request) or origin in self._dead:
                    return False
                message.filled = min(message.payload.nbytes, message.filled + PIECE_BYTES)
                message.request = None
            if message.filled == message.payload.nbytes:
                return True
            room = message.payload.data[message.filled : message.filled + PIECE_BYTES]
            try:
                message.request = self._comm.Irecv([room, self._mpi.BYTE], origin, TAG)
            except self._mpi.Exception as error:
                self._survive(error)
                return False
