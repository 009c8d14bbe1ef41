"""Parts: large payloads are sent in parts, because a heartbeat can't overtake the message that is on the wire.

[header]                  a message without payload
[header + payload]        a short message; the header gives the payload's length
[header, payload]         a message
[header, first part]      the start of a large one
[empty, next part]        its continuation
[empty]                   nothing: "are you there?"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.transport.endpoint import Peer
from fogconv.errors import WireError

SHORT_BYTES = 4 << 10
"""Up to this size one copy is cheaper than one more frame."""
PART_BYTES = 384 << 10
"""0.3 s at 10 Mbit. The channel shards of VGG-16's later maps, on five ranks, stay below."""


def cut(frames: Sequence[Frame]) -> Sequence[list[Frame]]:
    """A message as it is sent: in one frame, in two, or in parts."""
    if len(frames) == 1:
        return ([frames[0]],)
    size = len(frames[1])
    if size <= SHORT_BYTES:
        return ([b"".join(frames)],)
    if size <= PART_BYTES:
        return (list(frames),)
    payload = memoryview(frames[1])
    places = range(PART_BYTES, payload.nbytes, PART_BYTES)
    parts: list[list[Frame]] = [[frames[0], payload[:PART_BYTES]]]
    parts += [[b"", payload[place : place + PART_BYTES]] for place in places]
    return parts


@dataclass(slots=True)
class _Partial:
    """A payload of which some parts have arrived."""

    header: Frame
    payload: NDArray[np.uint8]
    filled: int


class Assembly:
    """Assembles messages, one at a time for each peer. Payloads over ``max_payload_bytes`` are refused."""

    def __init__(self, max_payload_bytes: int) -> None:
        self._max_payload_bytes = max_payload_bytes
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
        if len(frames) == 2 and len(frames[1]) >= PART_BYTES:
            try:
                (size,) = codec.peek(header, self._max_payload_bytes)
                if size > len(frames[1]):
                    self.partial[peer] = _Partial(header, np.empty(size, np.uint8), 0)
                    return self._continue(peer, frames)
            except (WireError, ValueError, MemoryError):
                return [header]
        return frames

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
