"""Parts: large payloads are sent in parts, because a heartbeat can't overtake the message that is on the wire.

[header]                  a message without payload
[header + payload]        a short message; the header gives the payload's length
[header, payload]         a message
[header, first part]      the start of a large one
[empty, next part]        its continuation
[empty]                   nothing: "are you there?"

A message that others may overtake is sent behind them, in shorter parts, of which only a few are on their way at once:

[BEHIND, header, part]    its start
[BEHIND, empty, part]     its continuation
[BEHIND]                  from the other end: one such part has come
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.transport.endpoint import Peer
from fogconv.errors import WireError

log = logging.getLogger("fogconv.transport")

SHORT_BYTES = 4 << 10
"""Up to this size one copy is cheaper than one more frame."""
PART_BYTES = 384 << 10
"""0.3 s at 10 Mbit. The channel shards of VGG-16's later maps, on five ranks, stay below."""

BEHIND = b"FOGB"
BEHIND_BYTES = 64 << 10
"""30 ms at 17.5 Mbit."""
FEWEST, MOST = 4, 128
"""Parts that are on their way at once. What overtakes the others waits for these."""
SOON_S, LATE_S = 0.25, 0.5
"""A part that comes sooner makes room for one more, one that comes later for one less. Half of it is a device of 0.05 core
that is busy otherwise: it looks at what has come ten times per second."""


def cut(frames: Sequence[Frame]) -> Sequence[list[Frame]]:
    """A message as it is sent: in one frame, in two, or in parts."""
    if len(frames) == 1:
        return ([frames[0]],)
    size = len(frames[1])
    if size <= SHORT_BYTES:
        return ([b"".join(frames)],)
    if size <= PART_BYTES:
        return (list(frames),)
    return _parts(frames, PART_BYTES)


def cut_behind(frames: Sequence[Frame]) -> Sequence[list[Frame]]:
    """The same for a message with a payload that others may overtake."""
    return [[BEHIND, *part] for part in _parts(frames, BEHIND_BYTES)]


def _parts(frames: Sequence[Frame], size: int) -> list[list[Frame]]:
    payload = memoryview(frames[1])
    parts: list[list[Frame]] = [[frames[0], payload[:size]]]
    parts += [[b"", payload[place : place + size]] for place in range(size, payload.nbytes, size)]
    return parts


@dataclass(slots=True)
class Pace:
    """How many parts behind others may be on their way: enough that the link stays busy, few enough that they are soon gone.

    Times are those of one clock, in seconds.
    """

    allowed: int = 2 * FEWEST
    flying: deque[float] = field(default_factory=deque)
    """When those on their way were sent."""

    @property
    def free(self) -> bool:
        return len(self.flying) < self.allowed

    def sent(self, now_s: float) -> None:
        self.flying.append(now_s)

    def came(self, now_s: float) -> None:
        """The other end says that the oldest part has come."""
        if self.flying:
            took_s = now_s - self.flying.popleft()
            if took_s < SOON_S:
                self.allowed = min(MOST, self.allowed + 1)
            elif took_s > LATE_S:
                self.allowed = max(FEWEST, self.allowed - 1)


@dataclass(slots=True)
class _Partial:
    """A payload of which some parts have arrived."""

    header: Frame
    payload: NDArray[np.uint8]
    filled: int


class Assembly:
    """Assembles messages, one at a time for each peer.

    Refused are payloads over ``max_payload_bytes``, and those for which there is no room beside the rest of the messages
    that have begun: ``has_room(nbytes)``. A payload in parts begins with one of ``part_bytes`` or more.
    """

    def __init__(
        self,
        max_payload_bytes: int,
        has_room: Callable[[int], bool] = lambda nbytes: True,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._max_payload_bytes = max_payload_bytes
        self._has_room = has_room
        self._part_bytes = part_bytes
        self.partial: dict[Peer, _Partial] = {}
        """The peers of which a part has arrived."""

    def add(self, peer: Peer, frames: list[Frame]) -> list[Frame] | None:
        """The message that these frames complete; the header alone where it is refused: decoding it reports the
        reason."""
        header = frames[0]
        if not len(header):
            return self._continue(peer, frames)
        if self.partial:
            self.forget(peer)
        if len(frames) == 2 and len(frames[1]) >= self._part_bytes:
            try:
                (size,) = codec.peek(header, self._max_payload_bytes)
                if size > len(frames[1]):
                    if not self._has_room(size + self.promised):
                        log.warning("refused a payload of %.0f MB: the memory limit leaves no room for it", size / 1e6)
                        return [header]
                    self.partial[peer] = _Partial(header, np.empty(size, np.uint8), 0)
                    return self._continue(peer, frames)
            except (WireError, ValueError, MemoryError):
                return [header]
        return frames

    @property
    def promised(self) -> int:
        """The bytes that are still to come of messages that have begun."""
        return sum(partial.payload.nbytes - partial.filled for partial in self.partial.values())

    def forget(self, peer: Peer) -> None:
        """This peer's connection is lost; drop the received parts of its message."""
        self.partial.pop(peer, None)

    def _continue(self, peer: Peer, frames: list[Frame]) -> list[Frame] | None:
        partial = self.partial.get(peer)
        if partial is None or len(frames) != 2:
            return None  # "are you there?", or the rest of a refused message
        part = np.frombuffer(frames[1], np.uint8)
        end = partial.filled + part.nbytes
        if end > partial.payload.nbytes:
            self.forget(peer)
            return None
        partial.payload[partial.filled : end] = part
        partial.filled = end
        if end < partial.payload.nbytes:
            return None
        self.forget(peer)
        return [partial.header, partial.payload.data]
