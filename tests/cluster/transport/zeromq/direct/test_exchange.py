"""Direct connections: two ends that trust each other get one, a stranger none. If it breaks, the peer is lost."""

from __future__ import annotations

import contextlib
import select
import socket as sockets
import threading
import time
from collections.abc import Iterator

import pytest

from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.keys import KeyPair, Keys
from fogconv.cluster.transport.endpoint import Arrival, Event, Loss, Peer
from fogconv.cluster.transport.zeromq.direct import opening as openings
from fogconv.cluster.transport.zeromq.direct import sealing
from fogconv.cluster.transport.zeromq.direct.connection import DIRECT_BYTES
from fogconv.cluster.transport.zeromq.direct.exchange import Exchange
from fogconv.cluster.transport.zeromq.direct.opening import (
    ASK_FAR,
    ASK_FAST,
    ASK_NEAR,
    ASK_SEALED,
    HALF_BYTES,
    Listening,
    dial,
    listen,
)
from fogconv.cluster.transport.zeromq.endpoint import ZeromqEndpoint
from fogconv.cluster.transport.zeromq.shared_memory import SHARED_BYTES
from tests.cluster.cluster_of import eventually
from tests.cluster.transport.contract import PATIENCE_S

pytestmark = pytest.mark.alone

WAYS = ["near", "far", "sealed"]


class Pair:
    """A bound endpoint with one that has connected to it, which trust each other. Both receive in this thread."""

    def __init__(self, way: str, direct: bool = True) -> None:
        near, sealed = way == "near", way == "sealed"
        worker, master = KeyPair.generate(), KeyPair.generate()
        self.there = ZeromqEndpoint("tcp://127.0.0.1:*", keys=Keys(worker, frozenset({master.public})) if sealed else None)
        self.here = ZeromqEndpoint(shared=near, direct=direct, keys=Keys(master) if sealed else None)
        self.events: dict[ZeromqEndpoint, list[Event]] = {self.here: [], self.there: []}
        self.link = self.here.connect(self.there.address, worker.public if sealed else None)
        self.link.near = near  # type: ignore[attr-defined]
        self.here.send(self.link, codec.encode(m.Attach(bytes(16), 1)))
        self.caller: Peer = self.received(self.there).peer
        self.there.trust(self.caller)

    def next(self, endpoint: ZeromqEndpoint, timeout_s: float = PATIENCE_S) -> Event | None:
        """The next event of one of the two ends, at which this thread receives in turn."""
        deadline = time.monotonic() + timeout_s
        while not self.events[endpoint] and time.monotonic() < deadline:
            for each in (self.here, self.there):
                event = each.receive(0.005)
                if event is not None:
                    self.events[each].append(event)
        return self.events[endpoint].pop(0) if self.events[endpoint] else None

    def received(self, endpoint: ZeromqEndpoint) -> Arrival:
        event = self.next(endpoint)
        assert isinstance(event, Arrival), event
        return event

    def exchange(self, tag: int, size: int = 64) -> None:
        """One message there and one back."""
        data = bytes([tag % 256]) * size
        for sender, peer, receiver in ((self.here, self.link, self.there), (self.there, self.caller, self.here)):
            sender.send(peer, codec.encode(m.Data(1, tag), data), ordered=False)
            event = self.received(receiver)
            message, payloads = codec.decode(event.frames)
            assert (message, bytes(payloads[0])) == (m.Data(1, tag), data)

    @property
    def opened(self) -> bool:
        return self.link in self.here._exchange.connections and self.caller in self.there._exchange.connections

    def open(self) -> None:
        tags = iter(range(1, 100_000))

        def opened() -> bool:
            self.exchange(next(tags))
            return self.opened

        eventually(opened, PATIENCE_S)

    def close(self) -> None:
        self.here.close()
        self.there.close()


@pytest.fixture(params=WAYS)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(request.param)
    yield made
    made.close()


def test_messages_of_all_sizes_arrive_over_either_way(pair: Pair) -> None:
    pair.open()
    sizes = [0, 1, 4096, 4097, SHARED_BYTES - 1, SHARED_BYTES, 100_000, DIRECT_BYTES, DIRECT_BYTES + 1, 1_000_000]
    for tag, size in enumerate(sizes * 2, start=1):
        pair.exchange(tag, size)
    assert pair.opened


def test_with_keys_nothing_is_said_in_clear_and_a_changed_byte_is_the_end() -> None:
    pair = Pair("sealed")
    pair.open()
    sender, taker = pair.here._exchange.connections[pair.link], pair.there._exchange.connections[pair.caller]
    ours, tapped = sockets.socketpair()
    sender._raw, raw = ours, sender._raw
    pair.here.send(pair.link, codec.encode(m.Data(7, 8), b"a picture of a cat" * 10), ordered=False)
    stream = tapped.recv(1 << 16)
    assert b"picture" not in stream and b"FOGC" not in stream
    raw.send(stream)
    message, payloads = codec.decode(pair.received(pair.there).frames)
    assert (message, bytes(payloads[0])) == (m.Data(7, 8), b"a picture of a cat" * 10)
    pair.here.send(pair.link, codec.encode(m.Data(7, 9), b"another"), ordered=False)
    stream = tapped.recv(1 << 16)
    raw.send(stream[:-30] + bytes([stream[-30] ^ 1]) + stream[-29:])
    assert pair.next(pair.there) == Loss(pair.caller, "the connection ended")
    assert taker.fd not in pair.there._exchange.peer_at
    for each in (ours, tapped, raw):
        each.close()
    pair.close()


@pytest.mark.parametrize(("here", "there"), [(True, True), (True, False), (False, True), (False, False)])
def test_both_ends_seal_by_the_cipher_that_is_fast_at_both(here: bool, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not sealing.fast():
        pytest.skip("this processor is not fast at AES")
    ask = ASK_FAST if here else ASK_SEALED
    monkeypatch.setattr(openings, "fast", lambda: there)
    listening, offer = listen(ask, "127.0.0.1")
    calling = dial(offer, ask, "127.0.0.1")
    assert listening.cipher == calling.cipher == (sealing.AEGIS if here and there else sealing.CHACHA)
    ours, theirs = calling.seal(), listening.seal()
    assert ours is not None and theirs is not None
    assert theirs.opened(bytes(ours.seal(b"text", b"head")), b"head") == b"text"
    assert ours.opened(bytes(theirs.seal(b"back", b"head")), b"head") == b"back"
    for each in (calling.raw, listening.listener):
        each.close()


def test_a_cipher_that_was_not_asked_for_is_no_answer() -> None:
    if not sealing.fast():
        pytest.skip("this processor is not fast at AES")
    listening, offer = listen(ASK_FAST, "127.0.0.1")
    with pytest.raises(ValueError, match="does not fit the ask"):
        dial(offer, ASK_SEALED, "127.0.0.1")
    listening.listener.close()


@pytest.mark.parametrize(("ask", "sealed"), [(ASK_SEALED, False), (ASK_FAST, False), (ASK_FAR, True), (ASK_NEAR, True)])
def test_an_end_that_seals_takes_no_ask_of_one_that_does_not(ask: bytes, sealed: bool) -> None:
    exchange = Exchange(select.poll())
    assert exchange.answer("peer", ask, "127.0.0.1", sealed) is None
    assert not exchange._openings


def test_without_leave_there_is_none() -> None:
    made = Pair("near", direct=False)
    for tag in range(20):
        made.exchange(tag)
    assert not made.opened
    assert not made.there._exchange._openings
    made.close()


def test_one_that_closes_its_end_is_not_lost(pair: Pair) -> None:
    pair.open()
    pair.here._exchange.forget(pair.link)
    assert pair.next(pair.there, 0.5) is None
    assert not pair.there._exchange.connections
    for tag in range(10):
        pair.exchange(tag)


@pytest.mark.parametrize("end", ["here", "there"])
def test_a_connection_that_breaks_is_the_loss_of_its_peer(pair: Pair, end: str) -> None:
    """Half of a message came over it, and then its end."""
    pair.open()
    here, peer, other, at_other = (
        (pair.here, pair.link, pair.there, pair.caller) if end == "here" else (pair.there, pair.caller, pair.here, pair.link)
    )
    broken = other._exchange.connections[at_other]
    broken._raw.send(b"\0\0\6")
    broken._raw.shutdown(sockets.SHUT_WR)
    assert pair.next(here) == Loss(peer, "the connection ended")
    here.send(peer, codec.encode(m.Data(1, 1), b"x"), ordered=False)  # says nothing, does nothing


def test_what_came_before_the_link_ended_is_valid(pair: Pair) -> None:
    pair.open()
    for tag in range(5):
        pair.here.send(pair.link, codec.encode(m.Data(1, tag), bytes(10)), ordered=False)
    pair.here.close()
    events = []
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and not any(isinstance(event, Loss) for event in events):
        event = pair.there.receive(0.5)
        events += [] if event is None else [event]
    assert [isinstance(event, Arrival) for event in events] == [True] * 5 + [False]


def test_a_stranger_does_not_get_in_before_or_beside_the_one_that_was_asked() -> None:
    poller = select.poll()
    there, here = Exchange(poller), Exchange(poller)
    asked = here.ask("there", near=False)
    assert asked == ASK_FAR
    offer = there.answer("here", ASK_FAR, "127.0.0.1") or b""
    listening = there._openings["here"]
    assert isinstance(listening, Listening)
    port = listening.listener.getsockname()[1]
    strangers = [sockets.create_connection(("127.0.0.1", port)) for _ in range(2 * openings.MOST_CALLERS)]
    for number, stranger in enumerate(strangers):
        with contextlib.suppress(OSError):
            stranger.sendall(bytes(number))
    here.accept("there", offer, "127.0.0.1")

    def opened() -> bool:
        for fd, _ in poller.poll(100):
            for exchange in (there, here):
                exchange.go_on(fd)
        return bool(there.connections and here.connections)

    eventually(opened, PATIENCE_S)
    assert not there._openings
    with pytest.raises(OSError, match="refused"):
        sockets.create_connection(("127.0.0.1", port))
    for stranger in strangers:
        stranger.settimeout(PATIENCE_S)
        with contextlib.suppress(ConnectionError):
            assert stranger.recv(1) == b"", "it was closed"
        stranger.close()
    there.close()
    here.close()


def test_a_port_that_leads_to_another_process_is_not_taken(pair: Pair) -> None:
    """As behind a forwarded port: something else answers there."""
    with sockets.create_server(("127.0.0.1", 0)) as other:
        answered = threading.Event()

        def serve() -> None:
            connection, _ = other.accept()
            with connection:
                connection.sendall(bytes(HALF_BYTES))
                answered.set()
                connection.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        pair.link.near = False  # type: ignore[attr-defined]
        assert pair.here._exchange.ask(pair.link, near=False) is not None
        offer = b"FOGD!" + bytes(range(32)) + b"p" + other.getsockname()[1].to_bytes(2, "big")
        pair.here._exchange.accept(pair.link, offer, "127.0.0.1")
        eventually(
            lambda: pair.here.receive(0.05) is None and answered.is_set() and not pair.here._exchange._openings, PATIENCE_S
        )
        assert not pair.here._exchange.connections
        thread.join(PATIENCE_S)
    for tag in range(5):
        pair.exchange(tag)


def test_a_port_to_which_nobody_comes_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openings, "OPEN_S", 0.0)
    exchange = Exchange(select.poll())
    assert exchange.answer("peer", ASK_FAR, "127.0.0.1") is not None
    exchange.expire()
    assert not exchange._openings
    assert not exchange._opening_at


def test_an_offer_that_was_not_asked_for_is_not_dialed() -> None:
    exchange = Exchange(select.poll())
    opening, offer = listen(ASK_NEAR, "127.0.0.1")
    exchange.accept("peer", offer, "")
    assert not exchange._openings
    opening.listener.close()


@pytest.mark.parametrize("place", [b"", b"p", b"p\1", b"nname", b"x\1\1"])
def test_what_is_no_offer_is_none(place: bytes) -> None:
    with pytest.raises(ValueError, match="does not fit the ask"):
        dial(b"FOGD!" + bytes(32) + place, ASK_FAR, "127.0.0.1")


def test_an_end_at_a_socket_file_has_no_port_to_offer() -> None:
    with pytest.raises(OSError, match="can't listen"):
        listen(ASK_FAR, "")
