"""The interface between the cluster and its transports.

An Endpoint is one rank's connection to the others. It moves lists of frames and does not know messages; Session and
Worker know messages and no transport. There are three: in-process queues, ZeroMQ, MPI.

    send        never waits for the peer; frames must stay as they are until the run's end (they may not be copied)
    receive     the next Arrival or Loss, or None after the time given or a wake()
    order       frames of one peer arrive in the order in which that peer sent them, but for those sent without it, and those
                sent behind others
    trust       who connects here is a stranger until ``trust``: of strangers short messages are taken, and no payload
    threads     send, wake and close may be called from any thread; one thread at a time receives
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.protocol.codec import Frame

if TYPE_CHECKING:
    from fogconv.cluster.transport.channel import Channel

DIRECT_BYTES = 128 << 10
"""The longest payload of a message that takes a direct connection: a row of a map, with its channels, is mostly shorter."""

Peer = Hashable
"""Identifies the other end of a link, on this end only."""


class Arrival(msgspec.Struct, frozen=True):
    """Frames came from a peer. ``credential`` is the public key that the transport has proven, if it proves any."""

    peer: Peer
    frames: Sequence[Frame]
    credential: str | None = None


class Loss(msgspec.Struct, frozen=True):
    """A peer is lost."""

    peer: Peer
    reason: str


Event = Arrival | Loss


class Endpoint(Protocol):
    """One rank's connection to its peers."""

    @property
    def scheme(self) -> str:
        """ "inproc", "tcp" or "mpi", for reports."""

    def connect(self, address: str, key: str | None = None) -> Peer:
        """Open a link; where no process listens, there is no answer, or a Loss. ``key``: the public key the peer must
        have."""

    def disconnect(self, peer: Peer) -> None:
        """Drop a link that ``connect`` opened. Unknown peers are ignored."""

    def trust(self, peer: Peer) -> None:
        """Take payloads of this peer, and send what was held for it. Unknown peers are ignored."""

    def distrust(self, peer: Peer) -> None:
        """This peer is a stranger again."""

    def ignore(self, peer: Peer) -> None:
        """Accept nothing more from this peer's connection; end it if much more arrives."""

    def drop(self, peer: Peer) -> None:
        """End this peer's connection, whichever end opened it, and accept nothing more from it."""

    def hold(self, peer: Peer) -> None:
        """Keep what is sent over a link that ``connect`` opened until ``trust``: the other end would not take it yet."""

    def send(self, peer: Peer, frames: Sequence[Frame], *, ordered: bool = True, behind: bool = False) -> None:
        """Queue frames for sending. Does nothing for a lost peer, whose Loss is reported.

        Without ``ordered`` they may overtake others of this rank, or be overtaken: a header and a payload, at best sent by a
        shorter way. ``behind``: they let all other messages pass, so that an inference does not wait for weights.
        """

    def channel(self, peer: Peer) -> Channel | None:
        """What compiled code can send to this peer over, and receive from it; None where there is nothing like it."""

    def lease(self) -> NDArray[np.int32] | None:
        """Let the thread that may call ``receive`` wait for channels by itself until ``end_lease``. Returns the structs
        pollfd of what ends such a wait; None where there is something to do first, or no such way to wait."""

    def end_lease(self) -> None: ...

    def room(self, nbytes: int) -> memoryview | None:
        """Memory for a payload that reaches peers without a copy; None where there is none. Never written twice."""

    def receive(self, timeout_s: float) -> Event | None:
        """The next event, or None."""

    def wake(self) -> None:
        """Make a waiting ``receive`` return None now."""

    def admit(self, keys: frozenset[str]) -> None:
        """With encryption: besides masters, peers with these public keys may connect. Replaces the last such set."""

    def probe(self, peer: Peer) -> bool:
        """False if this peer is known to be lost; True where it is present or its state is unknown."""

    def diagnose(self, address: str) -> str:
        """The reason why nothing answers there, as text; empty if it is unknown."""

    def close(self) -> None:
        """Send waiting frames (for a short time), then release everything. A second call does nothing."""
