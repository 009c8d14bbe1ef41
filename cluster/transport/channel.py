"""Channel: a direct connection over which compiled code sends and receives whole messages, beside Python's own use of it.

Nothing here ever waits for a connection. Who sends or reads takes the channel's word for the time of one call of the system,
and goes another way where it is taken. Closing takes it for good, so that a descriptor whose number means another file by
then is never used.

    word       TAKEN, FREE, or LEFT: compiled code sent a part of a message, and Python has yet to send the rest
    on way     the address of the number of bytes that may be on their way
    longest    the longest payload that is sent over it
    clean      whether what Python read ended with a whole message

Only the thread that leads a dispatcher reads connections. Compiled code does under a `Lease` of that place, and waits for
its own connection and all that the leader waits for but the other connections: their messages stay in the system's buffers
until their own steps, as while a kernel runs. A rank with two neighbours waited by Python for most messages before. Where
anything else comes, it stops, and Python goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numba.core import types
from numpy.typing import NDArray

from fogconv.kernels.codegen import vector
from fogconv.kernels.codegen.jit import jit, ready
from fogconv.kernels.codegen.native import atomics, system
from fogconv.kernels.maps.bound import Bound, address_of, bind

TAKEN, FREE, LEFT = range(3)

WORD, DESCRIPTOR, ON_WAY, MOST_ON_WAY, LONGEST, CLEAN = range(6)
"""Of a channel's numbers."""

WANTED, STRUCTS, COUNT = range(3)
"""Of a lease's: whether it is to end; the address and the number of what poll watches."""

STOP, SENT_BYTES, RECEIVED_BYTES, LEASE, CHANNELS = range(5)
"""Of the numbers that the messages of a program share: whether one of them is for Python; the bytes of the payloads that
compiled code sent and received; the addresses of the lease and of the channels, 0 where there is none."""

SHARED, CHANNEL, BEGIN, SIZE, PAYLOAD, DONE, HERE, FRONT = range(8)
"""Of a message's: the address of those numbers, and of its channel's among them; where the message begins; its bytes, and
its payload's, which are the last; how many were sent or received the last time; for a message to receive whether Python has
it already, and the address of what is expected before the payload."""

FRONT_BYTES = 64
"""The most that stands before a payload, which then begins a cache line."""

PAUSE_S = 1e-4
WAIT_MS = 1000
"""After so long compiled code leaves waiting to Python, which knows how long a run may wait."""
ASKED = 1
READABLE = ASKED | 1 << 16
"""The second half of a struct pollfd: POLLIN was asked for, and found."""

_NANOSECONDS = 1_000_000
_TAKE = types.boolean(types.int64, types.int64)
_GIVE = types.void(types.int64, types.int64)


@jit
def send(a):  # type: ignore[no-untyped-def]
    """Send a message as a whole, or stop the walk."""
    channel, size = atomics.read(a[CHANNEL]), a[SIZE]
    a[DONE] = 0
    if channel != 0 and a[PAYLOAD] <= atomics.read(channel + 8 * LONGEST) and atomics.take(channel + 8 * WORD, FREE):
        descriptor, on_way = atomics.read(channel + 8 * DESCRIPTOR), atomics.read(channel + 8 * ON_WAY)
        most = atomics.read(channel + 8 * MOST_ON_WAY)
        if atomics.read(on_way) + size > most:
            # What was sent since the system last said is an upper bound.
            atomics.write(on_way, system.unsent(descriptor))
        if atomics.read(on_way) + size <= most:
            sent = system.send(descriptor, a[BEGIN], size)
            if sent > 0:
                atomics.write(on_way, atomics.read(on_way) + sent)
                a[DONE] = sent
        atomics.write(channel + 8 * WORD, LEFT if 0 < a[DONE] < size else FREE)
        if a[DONE] == size:
            sent_bytes = a[SHARED] + 8 * SENT_BYTES
            atomics.write(sent_bytes, atomics.read(sent_bytes) + a[PAYLOAD])
            return
    atomics.write(a[SHARED] + 8 * STOP, 1)


@jit
def receive(a):  # type: ignore[no-untyped-def]
    """Take a message as a whole, after waiting for it, or stop the walk. What was read then is for Python."""
    channel, lease, size = atomics.read(a[CHANNEL]), atomics.read(a[SHARED] + 8 * LEASE), a[SIZE]
    front = size - a[PAYLOAD]
    a[DONE] = 0
    if channel != 0 and lease != 0 and a[HERE] == 0:
        descriptor = atomics.read(channel + 8 * DESCRIPTOR)
        until = system.now() + WAIT_MS * _NANOSECONDS
        while (
            atomics.read(lease + 8 * WANTED) == 0
            and atomics.read(channel + 8 * CLEAN) != 0
            and atomics.take(channel + 8 * WORD, FREE)
        ):
            got = system.receive(descriptor, a[BEGIN] + a[DONE], size - a[DONE])
            atomics.write(channel + 8 * WORD, FREE)
            if got == 0:
                break
            if got > 0:
                a[DONE] += got
                if a[DONE] >= front and not _same(a[BEGIN], a[FRONT], front):
                    break
                if a[DONE] == size:
                    received_bytes = a[SHARED] + 8 * RECEIVED_BYTES
                    atomics.write(received_bytes, atomics.read(received_bytes) + a[PAYLOAD])
                    return
            if not _comes(lease, descriptor) or system.now() > until:
                break
    atomics.write(a[SHARED] + 8 * STOP, 1)


@jit
def _same(begin, expected, count):  # type: ignore[no-untyped-def]
    """Whether two fronts are equal. They end with a cache line, and are 0 before they begin: so whole words are compared."""
    for at in range(count - FRONT_BYTES, count, 4):
        if vector.load_word(begin + at) != vector.load_word(expected + at):
            return False
    return True


@jit
def _comes(lease, descriptor):  # type: ignore[no-untyped-def]
    """Wait for this descriptor, or for any other of the lease: whether this one has something to read, and no other has."""
    structs, count = atomics.read(lease + 8 * STRUCTS), atomics.read(lease + 8 * COUNT)
    vector.store_word(structs, np.int32(descriptor))
    vector.store_word(structs + 4, np.int32(ASKED))
    return system.poll(structs, count, WAIT_MS) == 1 and vector.load_word(structs + 4) == READABLE


@jit
def take(address, state):  # type: ignore[no-untyped-def]
    return atomics.take(address, state)


@jit
def give(address, state):  # type: ignore[no-untyped-def]
    atomics.write(address, state)


class Channel:
    """``descriptor``: a socket's that never blocks. ``on_way``: the address of an int64, which both count; above
    ``most_on_way`` Python sends.

    ``head(header bytes, payload bytes)``: what stands before a header. ``go_on(rest)``: send the rest of a message when the
    socket takes it. ``hear(bytes)``: these have come.
    """

    def __init__(
        self,
        descriptor: int,
        on_way: int,
        most_on_way: int,
        head: Callable[[int, int], bytes],
        go_on: Callable[[bytes], None],
        hear: Callable[[bytes], None],
    ) -> None:
        warm_up()
        self._numbers = np.zeros(6, np.int64)
        self._numbers[[WORD, DESCRIPTOR, ON_WAY, MOST_ON_WAY]] = FREE, descriptor, on_way, most_on_way
        self.address = address_of(self._numbers)
        self.head, self.go_on, self.hear = head, go_on, hear

    def fit(self, longest: int) -> None:
        """From now on longer payloads are for Python."""
        self._numbers[LONGEST] = longest

    def note(self, clean: bool) -> None:
        """Whether what Python read ended with a whole message."""
        self._numbers[CLEAN] = clean

    def take(self) -> bool:
        """Take the word for Python. False where compiled code has it, or has left a rest."""
        return bool(take(self.address, FREE))

    def give(self) -> None:
        give(self.address, FREE)

    def end(self) -> None:
        """Take the word for good. A call of compiled code takes microseconds, unless its thread is kept from the core."""
        while not take(self.address, FREE) and not take(self.address, LEFT):
            time.sleep(PAUSE_S)


class Lease:
    """The leader's place at a dispatcher, for compiled code. ``structs``: the structs pollfd of what ends its wait."""

    def __init__(self, structs: NDArray[np.int32]) -> None:
        # The first one is for the connection that it waits for.
        self._structs = np.concatenate([np.zeros((1, 2), np.int32), structs])
        self._numbers = np.array([0, address_of(self._structs), len(self._structs)], np.int64)
        self.address = address_of(self._numbers)

    @property
    def wanted(self) -> bool:
        return bool(self._numbers[WANTED])

    def want(self) -> None:
        """Another thread wants the place: compiled code stops at its next message to receive."""
        self._numbers[WANTED] = 1


def shared_numbers(channels: int) -> NDArray[np.int64]:
    """Those of the messages of a program, which has so many channels."""
    return np.zeros(CHANNELS + channels, np.int64)


def message_memory(payload_bytes: int) -> NDArray[np.uint8]:
    """Memory for a message: FRONT_BYTES, then its payload, at a cache line."""
    raw = np.zeros(2 * FRONT_BYTES + payload_bytes, np.uint8)
    start = -address_of(raw) % FRONT_BYTES
    return raw[start : start + FRONT_BYTES + payload_bytes]


def bind_message(
    kernel: object, shared: NDArray[np.int64], channel: int, memory: NDArray[np.uint8], expected: NDArray[np.uint8] | None
) -> tuple[Bound, NDArray[np.int64]]:
    """A call of `send` or `receive` with a program's shared numbers and the ``channel``-th of its channels, and the call's
    own numbers: BEGIN, SIZE and FRONT are to be set."""
    numbers = np.zeros(8, np.int64)
    numbers[SHARED], numbers[CHANNEL] = address_of(shared), address_of(shared) + 8 * (CHANNELS + channel)
    numbers[PAYLOAD] = len(memory) - FRONT_BYTES
    call = bind(kernel, numbers, shared, memory, expected)
    return call, call.args[0]  # type: ignore[attr-defined]


def warm_up() -> None:
    """Compile what Python calls."""
    ready(take, _TAKE)
    ready(give, _GIVE)
