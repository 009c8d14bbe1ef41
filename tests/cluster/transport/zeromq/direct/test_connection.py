"""Messages over a socket that never blocks: whole, whatever their sizes and however they come in; nothing else is taken."""

from __future__ import annotations

import socket as sockets
import struct
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.transport.zeromq.direct.connection import (
    DIRECT_BYTES,
    JOINED_BYTES,
    MOST_HEADER_BYTES,
    Connection,
    tuned,
)
from fogconv.cluster.transport.zeromq.direct.sealing import AEGIS, CHACHA, KEY_BYTES, Cipher, Seal, fast

SIZES = st.sampled_from([0, 1, 64, JOINED_BYTES, JOINED_BYTES + 1, 60_000, 1 << 16, DIRECT_BYTES]) | st.integers(0, 9000)


def payload(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


CIPHERS = [CHACHA, AEGIS] if fast() else [CHACHA]
WAYS = [None, *CIPHERS]


def ends(cipher: Cipher | None = None) -> tuple[Connection, Connection]:
    a, b = sockets.socketpair()
    keys = bytes(KEY_BYTES), bytes(range(KEY_BYTES))
    seals = (None, None) if cipher is None else (Seal(*keys, cipher), Seal(*keys[::-1], cipher))
    return Connection(tuned(a), seals[0]), Connection(tuned(b), seals[1])


def joined(frames: Sequence[Frame]) -> bytes:
    return b"".join(frames)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 60), SIZES, st.booleans()), min_size=1, max_size=8), st.sampled_from(WAYS))
def test_messages_arrive_whole_and_in_order(sent: list[tuple[int, int, bool]], cipher: Cipher | None) -> None:
    here, there = ends(cipher)
    came: list[Sequence[Frame]] = []
    expected = []
    for number, (header, size, reference) in enumerate(sent):
        size = min(size, 30) if reference else size
        frames = [payload(header, number), *([b""] if reference else []), payload(size, number + 100)]
        while not here.send(frames):
            here.flush()
            came += there.read()[0]
        expected.append((reference, joined(frames)))
    while len(came) < len(expected):
        here.flush()
        messages, lasts = there.read()
        assert lasts
        came += messages
    assert [(len(frames) == 3, joined(frames)) for frames in came] == expected
    here.close()
    assert there.read() == ([], False)
    there.close()


@settings(deadline=None, max_examples=30)
@given(st.lists(SIZES, min_size=1, max_size=4), st.data())
def test_however_the_bytes_are_cut_the_messages_are_the_same(sizes: list[int], data: st.DataObject) -> None:
    recorder, record = sockets.socketpair()
    recorder.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, 4 << 20)
    stream = b""
    writer = Connection(recorder)
    for size in sizes:
        assert writer.send([b"header", payload(size, size)])
        wanted = len(stream) + 8 + 6 + size
        while len(stream) < wanted:
            stream += record.recv(1 << 20)
    a, b = sockets.socketpair()
    reader = Connection(tuned(b))
    came: list[Sequence[Frame]] = []
    at = 0
    while at < len(stream):
        step = data.draw(st.integers(1, 70_000))
        a.sendall(stream[at : at + step])
        at += step
        came += reader.read()[0]
    assert [joined(frames) for frames in came] == [b"header" + payload(size, size) for size in sizes]
    for each in (writer, reader):
        each.close()
    a.close()
    record.close()


def test_a_longer_message_is_not_taken() -> None:
    here, there = ends()
    assert not here.send([b"header", bytes(DIRECT_BYTES + 1)])
    assert there.read() == ([], True)
    here.close()
    there.close()


@pytest.mark.parametrize("cipher", WAYS)
def test_nobody_reads_and_sending_does_not_wait(cipher: Cipher | None) -> None:
    here, there = ends(cipher)
    sent = 0
    while here.send([b"header", payload(50_000, sent)]):
        sent += 1
        assert sent < 1000, "what is on its way is bounded"
    came: list[Sequence[Frame]] = []
    while len(came) < sent:
        here.flush()
        came += there.read()[0]
    assert [joined(frames) for frames in came] == [b"header" + payload(50_000, number) for number in range(sent)]
    assert not here.rest
    assert here.send([b"header", b"again"])
    here.close()
    there.close()


def test_the_payload_may_change_once_it_is_sent() -> None:
    """A part of it may still wait for the system to take it."""
    here, there = ends()
    memory = bytearray(payload(100_000))
    sent = 0
    while not here.rest and here.send([b"header", memoryview(memory)]):
        sent += 1
    memory[:] = bytes(len(memory))
    came: list[Sequence[Frame]] = []
    while len(came) < sent:
        here.flush()
        came += there.read()[0]
    assert all(joined(frames) == b"header" + payload(100_000) for frames in came)
    here.close()
    there.close()


@pytest.mark.parametrize(
    "head",
    [
        struct.pack("<BBHI", 2, 0, 6, 4),
        struct.pack("<BBHI", 0, 0, MOST_HEADER_BYTES + 1, 4),
        struct.pack("<BBHI", 0, 0, 6, DIRECT_BYTES + 1),
        b"GET / HTTP/1.1\r\n",
    ],
)
def test_what_is_no_message_breaks_the_connection(head: bytes) -> None:
    a, b = sockets.socketpair()
    reader = Connection(tuned(b))
    a.sendall(head)
    with pytest.raises(OSError, match="a message with a header of"):
        reader.read()
    reader.close()
    a.close()


@settings(deadline=None, max_examples=150)
@given(st.lists(st.binary(max_size=80), max_size=6), st.sampled_from(WAYS))
def test_whatever_comes_it_is_messages_or_the_end(chunks: list[bytes], cipher: Cipher | None) -> None:
    a, b = sockets.socketpair()
    reader = Connection(tuned(b), None if cipher is None else Seal(bytes(KEY_BYTES), bytes(KEY_BYTES), cipher))
    try:
        for chunk in chunks:
            a.sendall(chunk)
            for frames in reader.read()[0]:
                assert cipher is None, "only what was sealed with the key opens"
                assert len(joined(frames)) <= sum(map(len, chunks))
    except OSError:
        pass
    reader.close()
    a.close()


@pytest.mark.parametrize("cut", [1, 8, 12, 14 + JOINED_BYTES])
def test_an_end_within_a_message_breaks_the_connection(cut: int) -> None:
    a, b = sockets.socketpair()
    reader = Connection(tuned(b))
    a.sendall((struct.pack("<BBHI", 0, 0, 6, 2 * JOINED_BYTES) + b"header" + payload(2 * JOINED_BYTES))[:cut])
    a.close()
    with pytest.raises(ConnectionError, match="within a message"):
        while True:
            assert reader.read()[0] == []
    reader.close()


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("change", ["bit", "head", "again", "swapped", "other way"])
def test_a_sealed_message_that_was_changed_does_not_open(change: str, cipher: Cipher) -> None:
    keys = bytes(KEY_BYTES), bytes(range(KEY_BYTES))
    here, there = Seal(*keys, cipher), Seal(*keys[::-1], cipher)
    first, second = (here.seal(text, b"head") for text in (b"the first", b"the second"))
    head = b"head"
    if change == "bit":
        first[3] ^= 1
    elif change == "head":
        head = b"Head"
    elif change == "swapped":
        first = second
    elif change == "again":
        copy = first.copy()
        there.open(first, b"head")
        assert first[: -cipher.tag_bytes] == b"the first"
        first = copy
    else:
        there = here
    with pytest.raises(ConnectionAbortedError):
        there.open(first, head)
