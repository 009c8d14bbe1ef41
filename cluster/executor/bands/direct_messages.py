"""Messages that compiled code sends and receives between the steps that it computes (`fogconv.cluster.transport.channel`).

Such a message lies in memory as it travels: what a direct connection puts before it, its header, its payload. Of that only
the run's number differs from run to run. Where compiled code can't do a message (there is no such connection, it is busy or
full, something else has come), the walk stops at it, Python does it by the mailbox, and the walk goes on after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.executor.interface import Run
from fogconv.cluster.executor.mailbox import Carrier
from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.transport import channel
from fogconv.cluster.transport.channel import FRONT_BYTES, Channel
from fogconv.kernels.maps.bound import Bound, address_of, sequence

Head = Callable[[int, int], bytes]


class DirectMessage:
    """One message with ``rank``. ``memory``: its front and its payload."""

    def __init__(self, rank: int, tag: int, memory: NDArray[np.uint8]) -> None:
        self.rank, self.tag = rank, tag
        self.bound: Bound = sequence(())
        self._memory = memory
        self._payload = memory[FRONT_BYTES:].data
        self._front = memory[:FRONT_BYTES]
        self._numbers = np.zeros(8, np.int64)
        self._number_at = 0

    def lay_out(self, run: int, head: Head) -> None:
        """Write its front for a run."""
        header = codec.encode(m.Data(run, self.tag), self._payload)[0]
        front = head(len(header), len(self._payload)) + header
        begin = FRONT_BYTES - len(front)
        self._memory[:FRONT_BYTES] = 0
        self._front[:] = np.frombuffer(bytes(begin) + front, np.uint8)
        self._numbers[channel.BEGIN] = address_of(self._memory) + begin
        self._numbers[channel.SIZE] = len(self._memory) - begin
        self._number_at = FRONT_BYTES - len(header) + codec.run_in_data(run)[0]

    def renumber(self, number: bytes) -> None:
        """Write the number of another run, which has as many bytes."""
        self._front.data[self._number_at : self._number_at + len(number)] = number

    def _done(self) -> tuple[NDArray[np.uint8], int]:
        """The message, and how many of its bytes compiled code sent or received the last time."""
        return self._memory[len(self._memory) - int(self._numbers[channel.SIZE]) :], int(self._numbers[channel.DONE])


class DirectSend(DirectMessage):
    """A Send. ``extracts`` write its payload."""

    def __init__(self, to: int, tag: int, memory: NDArray[np.uint8], extracts: Sequence[Bound]) -> None:
        super().__init__(to, tag, memory)
        self._extract = sequence(extracts)

    def bind(self, shared: NDArray[np.int64], number: int) -> None:
        send, self._numbers = channel.bind_message(channel.send, shared, number, self._memory, None)
        self.bound = sequence([self._extract, send])

    def __call__(self, run: Run) -> None:
        """By Python."""
        self._extract()
        run.mailbox.send(self.rank, self.tag, self._payload)

    def go_on(self, run: Run, over: Channel | None) -> None:
        """Send, by Python, what compiled code did not."""
        message, sent = self._done()
        if sent and over is not None:
            over.go_on(message[sent:].tobytes())
        else:
            run.mailbox.send(self.rank, self.tag, self._payload)


class DirectReceive(DirectMessage):
    """A Recv. ``inserts`` read its payload; ``by_python``: the whole step."""

    def __init__(
        self, origin: int, tag: int, memory: NDArray[np.uint8], inserts: Sequence[Bound], by_python: Callable[[Run], None]
    ) -> None:
        super().__init__(origin, tag, memory)
        self._inserts = inserts
        self._by_python = by_python
        self._front = channel.message_memory(0)

    def bind(self, shared: NDArray[np.int64], number: int) -> None:
        receive, self._numbers = channel.bind_message(channel.receive, shared, number, self._memory, self._front)
        self.bound = sequence([receive, *self._inserts])

    def lay_out(self, run: int, head: Head) -> None:
        super().lay_out(run, head)
        begin = int(self._numbers[channel.BEGIN]) - address_of(self._memory)
        self._numbers[channel.FRONT] = address_of(self._front) + begin

    def __call__(self, run: Run) -> None:
        self._by_python(run)

    def note(self, here: bool) -> None:
        """Whether Python has the message already."""
        self._numbers[channel.HERE] = here

    def hand_over(self, over: Channel | None) -> None:
        """Give what compiled code read, and did not use, to the connection's reader."""
        message, received = self._done()
        if received and over is not None:
            over.hear(message[:received].tobytes())


class DirectMessages:
    """Those of a program; one run at a time."""

    def __init__(self, calls: Sequence[Any]) -> None:
        sends = [call for call in calls if isinstance(call, DirectSend)]
        receives = [call for call in calls if isinstance(call, DirectReceive)]
        self._messages: list[DirectSend | DirectReceive] = [*sends, *receives]
        self._receives = {(each.rank, each.tag): each for each in receives}
        self._to = sorted({each.rank for each in sends})
        self._from = sorted({each.rank for each in receives})
        self._shared = channel.shared_numbers(len(self._to) + len(self._from))
        self.stop = address_of(self._shared) + 8 * channel.STOP
        self._carrier: Carrier | None = None
        self._channels: list[Channel | None] = []
        self._hears = False
        self._number_bytes = 0
        self._here: list[DirectReceive] = []
        channel.warm_up()
        for send in sends:
            send.bind(self._shared, self._place(send))
        for receive in receives:
            receive.bind(self._shared, self._place(receive))

    def _place(self, message: DirectMessage) -> int:
        """Of a message's channel among the program's."""
        if isinstance(message, DirectSend):
            return self._to.index(message.rank)
        return len(self._to) + self._from.index(message.rank)

    def open(self, carrier: Carrier) -> None:
        """See `fogconv.cluster.executor.mailbox.Messages`."""
        origins = [carrier.channel_from(rank) for rank in self._from]
        self._channels = [*map(carrier.channel_to, self._to), *origins]
        self._carrier = carrier
        self._hears = any(each is not None for each in origins)
        known = next((each for each in self._channels if each is not None), None)
        if known is None:
            return
        self._shared[channel.CHANNELS :] = [0 if each is None else each.address for each in self._channels]
        _, number = codec.run_in_data(carrier.run)
        if len(number) == self._number_bytes:
            for message in self._messages:
                message.renumber(number)
            return
        for message in self._messages:
            message.lay_out(carrier.run, known.head)
        self._number_bytes = len(number)

    def close(self) -> None:
        """The run is over: its connections may end, and are not used any more."""
        if self._carrier is not None:
            self._carrier.count(int(self._shared[channel.SENT_BYTES]), int(self._shared[channel.RECEIVED_BYTES]))
        self._shared[:] = 0
        self._channels, self._carrier, self._hears = [], None, False

    def lease(self) -> bool:
        """Let compiled code receive, until ``end_lease``. False where it can't."""
        if not self._hears or self._carrier is None:
            return False
        found = self._carrier.lease()
        if found is None:
            return False
        lease, here = found
        for each in self._here:
            each.note(False)
        self._here = [self._receives[key] for key in here if key in self._receives]
        for each in self._here:
            each.note(True)
        self._shared[channel.LEASE] = lease.address
        return True

    def end_lease(self, stopped_at: DirectSend | DirectReceive | None) -> None:
        """``stopped_at``: the message at which the walk stopped, if it did."""
        assert self._carrier is not None
        try:
            if isinstance(stopped_at, DirectReceive):
                stopped_at.hand_over(self._channels[self._place(stopped_at)])
        finally:
            self._shared[channel.LEASE] = 0
            self._carrier.end_lease()

    @property
    def stopped(self) -> bool:
        """Whether the walk stopped at a message."""
        return bool(self._shared[channel.STOP])

    def by_python(self, message: DirectSend | DirectReceive, run: Run) -> None:
        """Do the message at which the walk stopped."""
        self._shared[channel.STOP] = 0
        if isinstance(message, DirectSend):
            message.go_on(run, self._channels[self._place(message)] if self._channels else None)
        else:
            message(run)
