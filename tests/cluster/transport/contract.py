"""What every transport must do, as checks from one end against an echo at the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.transport.endpoint import Arrival, Endpoint, Loss, Peer

PATIENCE_S = 20.0
LARGE_BYTES = 64 << 20


@contextmanager
def echoing(endpoint: Endpoint) -> Iterator[Endpoint]:
    """An ``echo`` in a thread, which ends with the block, and the endpoint with it."""
    over = threading.Event()
    thread = threading.Thread(target=echo, args=(endpoint, over), daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        over.set()
        endpoint.wake()
        thread.join(PATIENCE_S)
        endpoint.close()


def echo(endpoint: Endpoint, over: threading.Event | None = None) -> None:
    """The other end: trusts every peer that attaches and sends every Data back; falls silent for ever on Abort, ends on
    Bye, and when it is ``over``."""
    while over is None or not over.is_set():
        event = endpoint.receive(PATIENCE_S * 3)
        if not isinstance(event, Arrival):
            continue
        message, payloads = codec.decode(event.frames)
        if isinstance(message, m.Attach):
            endpoint.trust(event.peer)
            endpoint.send(event.peer, codec.encode(m.Attached(message.rank)))
        elif isinstance(message, m.Data):
            endpoint.send(event.peer, codec.encode(message, *payloads))
        elif isinstance(message, m.Hello):
            endpoint.send(event.peer, codec.encode(m.StatusQuery(7)))
        elif isinstance(message, m.Bye | m.Abort):
            endpoint.close()
            return


def attached(endpoint: Endpoint, address: str) -> Peer:
    """A link to an echo that takes payloads over it."""
    peer = endpoint.connect(address)
    endpoint.send(peer, codec.encode(m.Attach(bytes(16), 1)))
    assert arrival(endpoint) == (m.Attached(1), [])
    return peer


def arrival(endpoint: Endpoint, timeout_s: float = PATIENCE_S) -> tuple[m.AnyMessage, list[bytes]]:
    """The next message with its payloads; fails on a loss or silence."""
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        event = endpoint.receive(left)
        if event is not None:
            assert isinstance(event, Arrival), event
            message, payloads = codec.decode(event.frames)
            return message, [bytes(payload) for payload in payloads]
    raise AssertionError(f"no event within {timeout_s} s")


def messages_keep_their_order(endpoint: Endpoint, peer: Peer) -> None:
    """Long and short ones, with and without payload, in one stream."""
    rng = np.random.default_rng(1)
    sizes = [0, 1, 63, 300_000, 5, 2_000_000, 262_144, 262_145, 17, *rng.integers(0, 5000, 200).tolist()]
    payloads = [rng.integers(0, 256, size, np.uint8).tobytes() for size in sizes]
    for number, payload in enumerate(payloads, start=1):
        endpoint.send(peer, codec.encode(m.Data(number, 3), payload))
    for number, payload in enumerate(payloads, start=1):
        message, came = arrival(endpoint)
        assert message == m.Data(number, 3)
        assert came == [payload]


def what_is_sent_behind_arrives_too(endpoint: Endpoint, peer: Peer) -> None:
    """Short and long messages, and others that may overtake them."""
    rng = np.random.default_rng(3)
    payloads = [rng.integers(0, 256, size, np.uint8).tobytes() for size in (5_000_000, 0, 70_000, 300_000, 524_288, 10)]
    for number, payload in enumerate(payloads, start=1):
        endpoint.send(peer, codec.encode(m.Data(number, 3), payload), behind=number % 2 == 1)
    found = {}
    for _ in payloads:
        message, (came,) = arrival(endpoint, 60.0)
        assert isinstance(message, m.Data)
        found[message.run] = came
    assert found == dict(enumerate(payloads, start=1))


def large_arrays_arrive_whole(endpoint: Endpoint, peer: Peer) -> None:
    payload = np.random.default_rng(2).integers(0, 256, LARGE_BYTES, np.uint8)
    endpoint.send(peer, codec.encode(m.Data(1, 1), payload.data))
    message, (came,) = arrival(endpoint, 60.0)
    assert message == m.Data(1, 1)
    assert np.array_equal(np.frombuffer(came, np.uint8), payload)


def sending_does_not_wait_for_the_peer(endpoint: Endpoint, peer: Peer) -> None:
    """32 MB each way before anybody reads: with blocking sends on both ends this would stand still for ever."""
    payload = np.zeros(4 << 20, np.uint8)
    for number in range(1, 9):
        endpoint.send(peer, codec.encode(m.Data(number, 1), payload.data))
    for number in range(1, 9):
        assert arrival(endpoint, 60.0)[0] == m.Data(number, 1)


def messages_without_payload_arrive(endpoint: Endpoint, peer: Peer) -> None:
    endpoint.send(peer, codec.encode(m.Hello(bytes(16), 1, 2, "contract", 1.0)))
    assert arrival(endpoint) == (m.StatusQuery(7), [])


def silence_ends_at_the_time_out(endpoint: Endpoint, peer: Peer) -> None:
    begin = time.monotonic()
    assert endpoint.receive(0.2) is None
    assert time.monotonic() - begin >= 0.19
    assert endpoint.receive(0.0) is None


def waking_ends_a_wait(endpoint: Endpoint, peer: Peer) -> None:
    endpoint.wake()
    begin = time.monotonic()
    assert endpoint.receive(4 * PATIENCE_S) is None
    assert time.monotonic() - begin < 2 * PATIENCE_S


CHECKS: dict[str, Callable[[Endpoint, Peer], None]] = {
    check.__name__: check
    for check in (
        messages_keep_their_order,
        what_is_sent_behind_arrives_too,
        large_arrays_arrive_whole,
        sending_does_not_wait_for_the_peer,
        messages_without_payload_arrive,
        silence_ends_at_the_time_out,
        waking_ends_a_wait,
    )
}


def a_dead_peer_is_noticed(endpoint: Endpoint, peer: Peer) -> None:
    """Not for MPI, where it is the end of all."""
    endpoint.send(peer, codec.encode(m.Abort(1)))
    deadline = time.monotonic() + PATIENCE_S
    while (left := deadline - time.monotonic()) > 0:
        event = endpoint.receive(left)
        if event is not None:
            assert isinstance(event, Loss), event
            assert event.peer == peer
            assert event.reason
            endpoint.send(peer, codec.encode(m.Abort(1)))  # says nothing, does nothing
            return
    raise AssertionError("the loss was not noticed")
