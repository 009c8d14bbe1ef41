"""Long payloads between processes of one user on one machine: by reference, checked, given back, and as always where not."""

from __future__ import annotations

import gc
import os
import struct
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.transport.endpoint import Arrival, Peer
from fogconv.cluster.transport.zeromq.endpoint import ZeromqEndpoint
from fogconv.cluster.transport.zeromq.shared_memory import (
    ACCEPTED,
    SHARED_BYTES,
    Arena,
    Sharing,
    is_lent,
    is_reference,
    is_sharing,
)
from fogconv.errors import WireError
from tests.cluster.transport.contract import PATIENCE_S, attached, echo

pytestmark = pytest.mark.alone

LIMIT = 1 << 20
ARENA = Arena(1 << 20)
HEADER = codec.encode(m.Data(1, 1), bytes(SHARED_BYTES))[0]


def payload(size: int = SHARED_BYTES, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def acquainted() -> tuple[Sharing, Sharing]:
    """Two ends, named "a" and "b", that see each other's arenas."""
    a, b = Sharing(LIMIT), Sharing(LIMIT)
    offer = a.offer("b")
    assert offer is not None
    answer = b.hear("a", offer)
    assert answer is not None
    last = a.hear("b", answer)
    assert last is not None
    assert b.hear("a", last) is None
    assert all(is_sharing(frames) for frames in (offer, answer, last))
    return a, b


def test_what_is_lent_is_read_where_it_lies_and_goes_back_with_its_last_view() -> None:
    a, b = acquainted()
    data = payload()
    for _ in range(5):
        sent = a.refer("b", [HEADER, data])
        assert sent is not None
        assert is_reference(sent)
        header, came = b.resolve("a", sent)
        assert header == HEADER
        assert bytes(came) == data
        assert is_lent(came)
        array = np.frombuffer(came, np.float32).reshape(2, -1)
        del came
        first = array[0]
        del array
        assert bytes(first.data) == data[: len(data) // 2]
        del first
    gc.collect()
    places = {struct.unpack("<QIQQ", sent[2])[0] for sent in [a.refer("b", [HEADER, data]) or [] for _ in range(1)]}
    assert places == {4096}, "the first block is used again and again"


def test_a_payload_made_in_its_room_is_not_copied() -> None:
    a, b = acquainted()
    room = a.room(SHARED_BYTES)
    assert room is not None
    sent = a.refer("b", [HEADER, room])
    assert sent is not None
    _, came = b.resolve("a", sent)
    room[:4] = b"late"
    assert bytes(came[:4]) == b"late"


def test_room_that_is_lent_twice_is_free_when_both_have_given_it_back() -> None:
    arena = Arena(1 << 20)
    room = arena.room(600_000)
    assert room is not None
    one, two = arena.lend(room, "one"), arena.lend(room, "two")
    assert one != two
    del room
    assert arena.room(600_000) is None
    arena.forget("one")
    assert arena.room(600_000) is None
    arena.forget("two")
    assert arena.room(600_000) is not None


def test_without_room_a_payload_travels_as_always() -> None:
    arena = Arena(1 << 20)
    held = [arena.lend(payload(300_000), "b") for _ in range(4)]
    assert [reference is None for reference in held] == [False, False, False, True]


def test_nobody_is_sent_references_that_has_not_accepted() -> None:
    a = Sharing(LIMIT)
    assert a.refer("b", [HEADER, payload()]) is None
    assert a.offer("b") is not None
    assert a.offer("b") is None, "once is enough"
    assert a.refer("b", [HEADER, payload()]) is None
    assert a.room(SHARED_BYTES) is None


def test_a_late_return_does_not_free_what_was_lent_to_another_since() -> None:
    a, b = acquainted()
    sent = a.refer("b", [HEADER, payload(seed=1)])
    assert sent is not None
    came = b.resolve("a", sent)[1]
    a.forget("b")
    c = Sharing(LIMIT)
    last = a.hear("c", c.hear("a", a.offer("c") or []) or [])
    assert last is not None
    again = a.refer("c", [HEADER, payload(seed=2)])
    assert again is not None
    del came
    gc.collect()
    a.refer("c", [HEADER, payload(seed=3)])
    assert bytes(c.resolve("a", again)[1]) == payload(seed=2)


@pytest.mark.parametrize(
    "offer",
    [
        b"FOGS",
        b"FOGS" + bytes(32),
        struct.pack("<4sIIQ16s", b"FOGS", os.getpid(), 0, 1 << 20, bytes(16)),
        struct.pack("<4sIIQ16s", b"FOGS", 1, 1, 1 << 20, bytes(16)),
    ],
)
def test_offers_of_what_is_no_arena_are_passed_over(offer: bytes) -> None:
    assert Sharing(LIMIT).hear("b", [offer]) is None


@pytest.mark.parametrize("wrong", ["token", "size"])
def test_an_offer_must_be_of_the_arena_that_it_names(wrong: str) -> None:
    arena = Arena(1 << 20)
    magic, process, descriptor, size, token = struct.unpack("<4sIIQ16s", arena.offer)
    offer = struct.pack(
        "<4sIIQ16s", magic, process, descriptor, size + (wrong == "size"), bytes(16) if wrong == "token" else token
    )
    assert Sharing(LIMIT).hear("b", [offer]) is None
    assert Sharing(LIMIT).hear("b", [arena.offer]) is not None


@pytest.mark.parametrize(
    "reference",
    [
        b"",
        bytes(28),
        struct.pack("<QIQQ", 4096, 1, 4160, (64 << 20) - 4159),
        struct.pack("<QIQQ", 4096, 1, 4160, LIMIT + 1),
        struct.pack("<QIQQ", 4097, 1, 4160, 64),
        struct.pack("<QIQQ", (64 << 20) - 2, 1, 4160, 64),
        struct.pack("<QIQQ", 4096, 1, 0, 64),
        struct.pack("<QIQQ", 4096, 1, 2**64 - 1, 2**64 - 1),
    ],
)
def test_references_to_anything_else_are_no_messages(reference: bytes) -> None:
    _, b = acquainted()
    for peer in ("a", "stranger"):
        with pytest.raises(WireError):
            codec.decode(b.resolve(peer, [HEADER, b"", reference]))


@settings(max_examples=300)
@given(st.binary(max_size=50), st.sampled_from([[], [ACCEPTED], [b"no"]]), st.booleans())
def test_any_offer_is_taken_or_passed_over(changes: bytes, behind: list[bytes], honest: bool) -> None:
    """Random bytes, or a real offer with some of its bytes changed: nothing is raised, and only the real one is taken."""
    real = ARENA.offer
    changed = (
        bytes(a ^ b for a, b in zip(real, changes.ljust(len(real), b"\0"), strict=False)) if honest else b"FOGS" + changes
    )
    victim = Sharing(LIMIT)
    try:
        answer = victim.hear("a", [changed, *behind])
        assert (answer is not None) == (changed == real)
    finally:
        victim.close()


words = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 4095, 4096, 4100, 4160, (1 << 20) - 4, 1 << 20]))


@settings(max_examples=500)
@given(words, st.integers(0, 2**32 - 1), words, words)
def test_any_reference_is_to_the_arena_or_to_nothing(place: int, number: int, start: int, size: int) -> None:
    victim = Sharing(LIMIT)
    try:
        assert victim.hear("a", [ARENA.offer]) is not None
        frames = victim.resolve("a", [HEADER, b"", struct.pack("<QIQQ", place, number, start, size)])
        inside = start >= 4096 and start + size <= ARENA.size and size <= LIMIT
        assert len(frames) == 1 + (inside and 4096 <= place <= ARENA.size - 4 and place % 4 == 0)
        if len(frames) == 2:
            assert len(bytes(frames[1])) == size
    finally:
        victim.close()


@pytest.fixture(params=[True, False], ids=["shared", "by TCP alone"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[ZeromqEndpoint, Peer, bool]]:
    there, here = ZeromqEndpoint("tcp://127.0.0.1:*"), ZeromqEndpoint(shared=request.param)
    threading.Thread(target=echo, args=(there,), daemon=True).start()
    peer = attached(here, there.address)
    yield here, peer, request.param
    here.send(peer, codec.encode(m.Bye()))
    here.close()


def test_over_loopback_endpoints_get_acquainted_by_themselves(ends: tuple[ZeromqEndpoint, Peer, bool]) -> None:
    here, peer, shared = ends
    kinds = []
    for number in range(6):
        data = payload(SHARED_BYTES + 1000 * number, number)
        here.send(peer, codec.encode(m.Data(number, 1), data))
        event = here.receive(PATIENCE_S)
        assert isinstance(event, Arrival)
        message, (came,) = codec.decode(event.frames)
        assert (message, bytes(came)) == (m.Data(number, 1), data)
        kinds.append(is_lent(came))
    assert kinds[-1] == shared
    assert not kinds[0] or shared
