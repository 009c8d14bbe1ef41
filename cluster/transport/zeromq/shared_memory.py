"""Shared: long payloads between two processes of one user on one machine go through memory that both see.

Over loopback TCP a payload is copied four times, by two I/O threads that take the cores from the kernels; here once, or not
at all where it was made in its ``room``. What travels is a reference:

    [header, empty, reference]    a message whose payload lies in the sender's arena
    [offer]                       "this is my arena", before the first long payload to a loopback address
    [offer, accepted]             "I see yours, and this is mine"
    [magic, accepted]             "and I see yours"

    arena    a memfd that can't be resized; the other end opens it by way of /proc, which the system allows to the same user
    block    a line of 16 words, one for each delivery, then the payload. A word holds the delivery's number; the receiver
             writes 0 when the last view of the payload is gone, and then the sender uses the block again

Where anything of this fails (another user, another machine behind a tunnel, no memfd, no room left) payloads travel as
always. A receiver trusts a peer of its own user with the values, as it does on any transport, and with nothing else: offers
and references are checked, and the seals keep a mapped arena from shrinking.
"""

from __future__ import annotations

import itertools
import mmap
import os
import stat
import struct
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.transport.endpoint import Peer

ARENA_BYTES = 64 << 20
"""Of addresses; pages are taken as they are first used."""
SHARED_BYTES = 32 << 10
"""From here a reference is cheaper than the payload."""
ACCEPTED = b"accepted"

_OFFER = struct.Struct("<4sIIQ16s")  # magic, process, descriptor, size, token
_REFERENCE = struct.Struct("<QIQQ")  # the delivery's word and number, the payload's first byte, its length
_MAGIC = b"FOGS"
_NAME = "fogconv"
_LINE = 64
_WORDS = _LINE // 4
_PAGE = 4096


class _Lent(np.ndarray[Any, np.dtype[np.uint8]]):
    """Bytes of an arena. All views of a payload hold one of these, whose end is theirs."""


@dataclass(eq=False, slots=True)
class _Block:
    """A part of an arena. ``maker`` is alive while whoever fills it may still write or send it."""

    start: int
    stop: int
    maker: weakref.ref[Any]
    lent: dict[int, Peer] = field(default_factory=dict)


class Arena:
    """The memory whose payloads others may read. Not locked. Raises OSError where the system has no such memory."""

    def __init__(self, size: int = ARENA_BYTES) -> None:
        import fcntl

        fd = os.memfd_create(_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            self._memory = mmap.mmap(fd, size)
        except BaseException:
            os.close(fd)
            raise
        self._closing = weakref.finalize(self, os.close, fd)
        token = os.urandom(16)
        self._memory[:16] = token
        self._words = memoryview(self._memory).cast("I")
        self._address = _address(memoryview(self._memory))
        self._blocks: list[_Block] = []
        self._numbers = itertools.cycle(range(1, 1 << 32))
        self.size = size
        self.offer = _OFFER.pack(_MAGIC, os.getpid(), fd, size, token)

    def room(self, nbytes: int) -> memoryview | None:
        """Memory to make a payload in, or None. It is used again when no view of it is left, here and with the receivers."""
        needed = _LINE + -(-nbytes // _LINE) * _LINE
        at = _PAGE
        self._blocks = [block for block in self._blocks if self._in_use(block)]
        place = len(self._blocks)
        for number, block in enumerate(self._blocks):
            if block.start - at >= needed:
                place = number
                break
            at = block.stop
        if self.size - at < needed:
            return None
        made = _bytes(self._memory, at + _LINE, nbytes)
        self._blocks.insert(place, _Block(at, at + needed, weakref.ref(made)))
        return made.data

    def lend(self, payload: Frame, peer: Peer) -> bytes | None:
        """The reference to a payload, which is copied unless it lies here; None where there is no room."""
        view = memoryview(payload)
        start = _address(view) - self._address
        block = next((b for b in self._blocks if b.start + _LINE <= start and start + view.nbytes <= b.stop), None)
        word = None if block is None else self._free_word(block)
        if block is None or word is None:
            made = self.room(view.nbytes)
            if made is None:
                return None
            np.copyto(np.frombuffer(made, np.uint8), np.frombuffer(view, np.uint8))
            start = _address(made) - self._address
            block = next(b for b in self._blocks if b.start + _LINE == start)
            word = block.start // 4
        self._words[word] = number = next(self._numbers)
        block.lent[word] = peer
        return _REFERENCE.pack(4 * word, number, start, view.nbytes)

    def close(self) -> None:
        """Nobody new can see it. Who sees it already keeps what was lent."""
        self._closing()

    def forget(self, peer: Peer) -> None:
        """This peer reads no more."""
        for block in self._blocks:
            for word in [word for word, reader in block.lent.items() if reader == peer]:
                self._words[word] = 0

    def _in_use(self, block: _Block) -> bool:
        for word in [word for word in block.lent if not self._words[word]]:
            del block.lent[word]
        return bool(block.lent) or block.maker() is not None

    def _free_word(self, block: _Block) -> int | None:
        words = range(block.start // 4, block.start // 4 + _WORDS)
        return next((word for word in words if word not in block.lent), None)


class _Window:
    """A peer's arena, seen from here. Raises OSError or ValueError for what is none."""

    def __init__(self, offer: bytes) -> None:
        import fcntl

        magic, process, descriptor, self.size, token = _OFFER.unpack(offer)
        path = Path(f"/proc/{process}/fd/{descriptor}")
        # Asked before it is opened: a stranger's offer may name anything.
        found, name = path.stat(), str(path.readlink())
        if not (name.startswith(f"/memfd:{_NAME}") and stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid()):
            raise ValueError(f"{path} is no arena")
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if magic != _MAGIC or os.fstat(fd).st_size != self.size or not _PAGE < self.size <= ARENA_BYTES:
                raise ValueError(f"an arena of {self.size} bytes")
            if not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
                raise ValueError("an arena that could shrink")
            self._memory = mmap.mmap(fd, self.size)
        finally:
            os.close(fd)
        if self._memory[:16] != token:
            raise ValueError("not the arena that was offered")
        self._words = memoryview(self._memory).cast("I")
        self._lent: dict[int, weakref.ref[Any]] = {}

    def look(self, reference: Frame, limit: int) -> memoryview | None:
        """The payload; None for a reference that points anywhere else, or to more than ``limit`` bytes."""
        if len(reference) != _REFERENCE.size:
            return None
        place, number, start, nbytes = _REFERENCE.unpack(reference)
        inside = start >= _PAGE and start + nbytes <= self.size and _PAGE <= place <= self.size - 4
        if not inside or place % 4 or nbytes > limit:
            return None
        payload = _bytes(self._memory, start, nbytes)
        words, lent, word = self._words, self._lent, place // 4

        def give_back(_: object) -> None:
            lent.pop(number, None)
            # A sender that took us for gone may have lent the block to somebody else.
            if words[word] == number:
                words[word] = 0

        lent[number] = weakref.ref(payload, give_back)
        return payload.data


class Sharing:
    """What one endpoint shares with its peers. Not locked: the endpoint is."""

    def __init__(self, max_payload_bytes: int) -> None:
        self._max_payload_bytes = max_payload_bytes
        self._arena: Arena | None = None
        self._possible = sys.platform.startswith("linux") and hasattr(os, "memfd_create")
        self._offered: set[Peer] = set()
        self._readers: set[Peer] = set()
        self._windows: dict[Peer, _Window] = {}

    def room(self, nbytes: int) -> memoryview | None:
        """Memory to make a payload in for peers that see it; None where there is none, or nobody to see it."""
        return self._arena.room(nbytes) if self._readers and self._arena is not None and nbytes >= SHARED_BYTES else None

    def offer(self, peer: Peer) -> list[Frame] | None:
        """What to send a peer at a loopback address before the first long payload; None when that was done."""
        if peer in self._offered or not self._open():
            return None
        assert self._arena is not None
        self._offered.add(peer)
        return [self._arena.offer]

    def refer(self, peer: Peer, frames: Sequence[Frame]) -> list[Frame] | None:
        """A message with a reference in the place of its payload; None where it has to travel as it is."""
        if peer not in self._readers or self._arena is None:
            return None
        reference = self._arena.lend(frames[1], peer)
        return None if reference is None else [frames[0], b"", reference]

    def resolve(self, peer: Peer, frames: Sequence[Frame]) -> list[Frame]:
        """A message with its payload; the header alone where the reference is wrong: decoding it says what is missing."""
        window = self._windows.get(peer)
        payload = None if window is None else window.look(frames[2], self._max_payload_bytes)
        return [frames[0]] if payload is None else [frames[0], payload]

    def hear(self, peer: Peer, frames: Sequence[Frame]) -> list[Frame] | None:
        """Take an offer, an acceptance or both; what to answer."""
        offer, accepted = bytes(frames[0]), len(frames) == 2 and bytes(frames[1]) == ACCEPTED
        if accepted and peer in self._offered:
            self._readers.add(peer)
        if offer == _MAGIC or peer in self._windows:
            return None
        try:
            self._windows[peer] = _Window(offer)
        except (OSError, ValueError, struct.error):
            return None
        own = self.offer(peer)
        return [own[0] if own else _MAGIC, ACCEPTED]

    def forget(self, peer: Peer) -> None:
        """This peer is gone, or starts anew."""
        self._offered.discard(peer)
        self._readers.discard(peer)
        self._windows.pop(peer, None)
        if self._arena is not None:
            self._arena.forget(peer)

    def close(self) -> None:
        """Share nothing more."""
        self._possible = False
        self._readers.clear()
        self._windows.clear()
        if self._arena is not None:
            self._arena.close()
            self._arena = None

    def _open(self) -> bool:
        if self._arena is None and self._possible:
            try:
                self._arena = Arena()
            except OSError:
                self._possible = False
        return self._arena is not None


def is_sharing(frames: Sequence[Frame]) -> bool:
    """Whether these frames are about arenas: an offer, an acceptance."""
    return bytes(frames[0][:4]) == _MAGIC


def is_reference(frames: Sequence[Frame]) -> bool:
    """Whether the payload of this message lies in the sender's arena."""
    return len(frames) == 3 and not len(frames[1])


def is_lent(frame: Frame) -> bool:
    """Whether a payload lies in a peer's arena: what is kept for long must be copied, or that peer runs out of room."""
    return isinstance(frame, memoryview) and isinstance(frame.obj, _Lent)


def _bytes(memory: mmap.mmap, start: int, nbytes: int) -> NDArray[np.uint8]:
    return np.frombuffer(memory, np.uint8, nbytes, start).view(_Lent)


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)
