"""Shared: large payloads between two processes of one user on one machine use shared memory.

Over loopback TCP a payload is copied four times, by two I/O threads that take the cores from the kernels; here once, or
not at all where it was made in its ``room``. The message is a reference:

    [header, empty, reference]    a message whose payload is in the sender's arena
    [offer]                       "this is my arena", before the first large payload to a loopback address
    [offer, accepted]             "I have mapped yours, and this is mine"
    [magic, accepted]             "I have mapped yours"

    arena    a memfd that can't be resized; the other end opens it through /proc, which the system allows to the same user
    block    a line of 16 words, one for each delivery, then the payload. A word holds the delivery's number; the receiver
             writes 0 when its last view of the payload is deleted, and then the sender reuses the block

If any of this fails (another user, another machine behind a tunnel, no memfd, no room left) payloads are sent normally. A
receiver trusts a peer of the same user only with the values, as on any transport: offers and references are checked, and
the seals keep a mapped arena from shrinking.
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
"""Bytes of address space; pages are allocated on first use."""
SHARED_BYTES = 32 << 10
"""From this size on a reference is cheaper than the payload."""
ACCEPTED = b"accepted"

_OFFER = struct.Struct("<4sIIQ16s")  # magic, process, descriptor, size, token
_REFERENCE = struct.Struct("<QIQQ")  # the delivery's word and number, the payload's first byte, its length
_MAGIC = b"FOGS"
_NAME = "fogconv"
_LINE = 64
_WORDS = _LINE // 4
_PAGE = 4096


class _Lent(np.ndarray[Any, np.dtype[np.uint8]]):
    """Bytes of an arena. All views of a payload hold one of these; it is deleted with the last of them."""


@dataclass(eq=False, slots=True)
class _Block:
    """A part of an arena. ``maker`` is alive while its owner may still write or send it."""

    start: int
    stop: int
    maker: weakref.ref[Any]
    lent: dict[int, Peer] = field(default_factory=dict)


class Arena:
    """Memory with payloads that other processes may read. Not locked. Raises OSError where the system has no such
    memory."""

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
        """Memory for a payload, or None. It is reused when no view of it is left, here and in the receivers."""
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
        """A reference to a payload, which is copied unless it is in this arena; None where there is no room."""
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
        """No new process can map it. Processes that have mapped it keep the lent payloads."""
        self._closing()

    def forget(self, peer: Peer) -> None:
        """This peer no longer reads payloads."""
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
    """A mapped arena of a peer. Raises OSError or ValueError for an invalid one."""

    def __init__(self, offer: bytes) -> None:
        import fcntl

        magic, process, descriptor, self.size, token = _OFFER.unpack(offer)
        path = Path(f"/proc/{process}/fd/{descriptor}")
        # Checked before it is opened, because an unknown peer's offer may name any file.
        found, name = path.stat(), str(path.readlink())
        if not (name.startswith(f"/memfd:{_NAME}") and stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid()):
            raise ValueError(f"{path} is not an arena")
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
            # A sender that considered this process lost may have lent the block to another one.
            if words[word] == number:
                words[word] = 0

        lent[number] = weakref.ref(payload, give_back)
        return payload.data


class Sharing:
    """The shared memory of one endpoint and its peers. Not locked: the endpoint is."""

    def __init__(self, max_payload_bytes: int) -> None:
        self._max_payload_bytes = max_payload_bytes
        self._arena: Arena | None = None
        self._possible = sys.platform.startswith("linux") and hasattr(os, "memfd_create")
        self._offered: set[Peer] = set()
        self._readers: set[Peer] = set()
        self._windows: dict[Peer, _Window] = {}

    def room(self, nbytes: int) -> memoryview | None:
        """Memory for a payload for peers that have mapped it; None where there is none, or no such peer."""
        return self._arena.room(nbytes) if self._readers and self._arena is not None and nbytes >= SHARED_BYTES else None

    def offer(self, peer: Peer) -> list[Frame] | None:
        """The offer for a peer at a loopback address before the first large payload; None when it was sent already."""
        if peer in self._offered or not self._open():
            return None
        assert self._arena is not None
        self._offered.add(peer)
        return [self._arena.offer]

    def reaches(self, peer: Peer) -> bool:
        """Whether a peer reads this memory."""
        return peer in self._readers

    def refer(self, peer: Peer, frames: Sequence[Frame]) -> list[Frame] | None:
        """A message with a reference in place of its payload; None where it has to be sent unchanged."""
        if peer not in self._readers or self._arena is None:
            return None
        reference = self._arena.lend(frames[1], peer)
        return None if reference is None else [frames[0], b"", reference]

    def resolve(self, peer: Peer, frames: Sequence[Frame]) -> list[Frame]:
        """A message with its payload; the header alone where the reference is wrong: decoding it reports the missing
        payload."""
        window = self._windows.get(peer)
        payload = None if window is None else window.look(frames[2], self._max_payload_bytes)
        return [frames[0]] if payload is None else [frames[0], payload]

    def hear(self, peer: Peer, frames: Sequence[Frame]) -> list[Frame] | None:
        """Handle an offer, an acceptance or both. Returns the answer."""
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
        """This peer is lost, or starts again."""
        self._offered.discard(peer)
        self._readers.discard(peer)
        self._windows.pop(peer, None)
        if self._arena is not None:
            self._arena.forget(peer)

    def close(self) -> None:
        """Stop sharing."""
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
    """Whether the payload of this message is in the sender's arena."""
    return len(frames) == 3 and not len(frames[1])


def is_lent(frame: Frame) -> bool:
    """Whether a payload is in a peer's arena. Payloads kept for long must be copied, or that peer runs out of room."""
    return isinstance(frame, memoryview) and isinstance(frame.obj, _Lent)


def _bytes(memory: mmap.mmap, start: int, nbytes: int) -> NDArray[np.uint8]:
    return np.frombuffer(memory, np.uint8, nbytes, start).view(_Lent)


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)
