"""Messages that compiled code sends and receives: the bytes of Python's, each once, and for Python what is unusual."""

from __future__ import annotations

import os
import socket as sockets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.cluster.executor.bands.direct_messages import DirectMessages, DirectReceive, DirectSend
from fogconv.cluster.executor.bands.joined_steps import JoinedSteps, joined
from fogconv.cluster.executor.interface import Run
from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.transport.channel import FRONT_BYTES, Channel, Lease, message_memory
from fogconv.cluster.transport.endpoint import DIRECT_BYTES
from fogconv.cluster.transport.zeromq.direct.connection import Connection, tuned
from fogconv.kernels.threads import NEVER

RANK = 3
SIZES = [0, 4, 64, 4096, 5000, 60_000, DIRECT_BYTES]


class Ends:
    """This end's connection, which compiled code shares, and the other end's socket. Also the mailbox and the carrier of a
    run: what Python is given to send, or asked to receive, is noted."""

    def __init__(self, sent: int | None = None) -> None:
        raw, self.there = sockets.socketpair()
        self.here = Connection(tuned(raw))
        if sent is not None:
            raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, sent)
        self.channel: Channel = self.here.share(self._go_on, self._hear)
        self.channel.fit(DIRECT_BYTES)
        self.run = 1
        self.leased: Lease | None = None
        self.has: list[tuple[int, int]] = []
        self.by_python: list[tuple[int, bytes]] = []
        self.came: list[bytes] = []
        self.counted = (0, 0)

    def _go_on(self, rest: bytes) -> None:
        self.here.rest = rest

    def _hear(self, data: bytes) -> None:
        self.came += [b"".join(frames) for frames in self.here.read(data)[0]]

    def open(self, messages: DirectMessages) -> None:
        messages.open(self)

    def channel_to(self, rank: int) -> Channel | None:
        return self.channel

    channel_from = channel_to

    def lease(self) -> tuple[Lease, list[tuple[int, int]]] | None:
        self.leased = Lease(np.zeros((0, 2), np.int32))
        return self.leased, self.has

    def end_lease(self) -> None: ...

    def count(self, sent_bytes: int, received_bytes: int) -> None:
        self.counted = sent_bytes, received_bytes

    def send(self, to: int, tag: int, payload: Any) -> None:
        self.by_python.append((tag, bytes(payload)))

    def close(self) -> None:
        self.here.close()
        self.there.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


def payload(size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def message(run: int, tag: int, data: bytes) -> bytes:
    """As Python sends it over a direct connection."""
    a, b = sockets.socketpair()
    a.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, 4 << 20)
    connection = Connection(a)
    assert connection.send(codec.encode(m.Data(run, tag), data))
    connection.close()
    found = b""
    while more := b.recv(1 << 20):
        found += more
    b.close()
    return found


def a_send(tag: int, data: bytes) -> DirectSend:
    memory = message_memory(len(data))
    memory[FRONT_BYTES:] = np.frombuffer(data, np.uint8)
    return DirectSend(RANK, tag, memory, ())


def a_receive(tag: int, size: int, by_python: Callable[[Run], None] = lambda run: None) -> tuple[DirectReceive, Any]:
    memory = message_memory(size)
    return DirectReceive(RANK, tag, memory, (), by_python), memory[FRONT_BYTES:]


def walk(ends: Ends, *calls: DirectSend | DirectReceive, run: int = 1) -> JoinedSteps:
    """Do them in one run."""
    messages = DirectMessages(calls)
    [steps] = joined(calls, messages)
    assert isinstance(steps, JoinedSteps)
    ends.run = run
    ends.open(messages)
    try:
        assert steps.run(Run(ends, ()), 0, NEVER) is None  # type: ignore[arg-type]
    finally:
        messages.close()
    return steps


def taken(there: sockets.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        found += there.recv(count - len(found))
    return found


@pytest.mark.parametrize("size", SIZES)
def test_the_bytes_of_a_message_are_those_that_python_sends(ends: Ends, size: int) -> None:
    data, tag = payload(size), 70_000
    calls = [a_send(tag, data)]
    messages = DirectMessages(calls)
    [steps] = joined(calls, messages)
    assert isinstance(steps, JoinedSteps)
    for run in (1, 2, 127, 128, 255, 256, 257, 65_535, 65_536, 1 << 32):
        ends.run = run
        messages.open(ends)
        steps.run(Run(ends, ()), 0, NEVER)  # type: ignore[arg-type]
        messages.close()
        expected, got = message(run, tag, data), b""
        while len(got) < len(expected):
            got += ends.there.recv(1 << 20)
            if ends.here.rest:
                ends.here.flush()
        assert got == expected
        assert not ends.by_python
        assert ends.counted[0] == size or (size > 100_000 and not ends.counted[0]), "of what the system takes at once"


def test_a_message_of_which_the_system_takes_a_part_is_sent_once_and_whole() -> None:
    ends = Ends(sent=4096)
    data = payload(100_000)
    walk(ends, a_send(5, data), a_send(6, b"next"))
    assert 0 < len(ends.here.rest) < len(data)
    assert ends.by_python == [(6, b"next")], "a rest waits, and nothing overtakes it within the connection"
    assert not ends.here.send([b"header", b"x"])
    expected, got = message(1, 5, data), b""
    while len(got) < len(expected):
        got += ends.there.recv(1 << 20)
        if ends.here.rest:
            ends.here.flush()
    assert got == expected
    walk(ends, a_send(7, b"free again"))
    assert taken(ends.there, len(message(1, 7, b"free again"))) == message(1, 7, b"free again")
    ends.close()


def test_what_the_system_does_not_take_python_sends() -> None:
    ends = Ends(sent=4096)
    with pytest.raises(BlockingIOError):
        while True:
            ends.here._raw.send(bytes(1000))
    walk(ends, a_send(5, b"data"))
    assert ends.by_python == [(5, b"data")]
    assert not ends.here.rest
    ends.close()


def test_a_payload_too_long_for_the_channel_python_sends(ends: Ends) -> None:
    ends.channel.fit(99)
    walk(ends, a_send(5, bytes(100)), a_send(6, bytes(99)))
    assert ends.by_python == [(5, bytes(100))]
    assert taken(ends.there, len(message(1, 6, bytes(99)))) == message(1, 6, bytes(99))


def test_while_python_has_the_connection_compiled_code_goes_another_way(ends: Ends) -> None:
    assert ends.channel.take()
    walk(ends, a_send(5, b"data"))
    assert ends.by_python == [(5, b"data")]
    ends.channel.give()


def test_after_the_other_end_closed_python_sends_and_finds_the_error(ends: Ends) -> None:
    ends.there.close()
    walk(ends, a_send(5, b"data"))
    assert ends.by_python == [(5, b"data")]
    with pytest.raises(OSError):
        ends.here.send([b"header", b"x"])


def test_a_descriptor_that_was_closed_is_not_used_whatever_its_number_means_now(ends: Ends) -> None:
    other, witness = sockets.socketpair()
    number = ends.here.fd
    ends.here.close()
    os.dup2(other.fileno(), number)
    receive, memory = a_receive(6, 4)
    witness.send(message(1, 6, b"1234"))
    walk(ends, a_send(5, b"data"), receive)
    assert ends.by_python == [(5, b"data")]
    witness.setblocking(False)
    with pytest.raises(BlockingIOError):
        witness.recv(1)
    assert not memory.any()
    os.close(number)
    other.close()
    witness.close()
    ends.there.close()


@pytest.mark.parametrize("size", SIZES)
def test_a_message_that_has_come_is_taken(ends: Ends, size: int) -> None:
    receive, memory = a_receive(5, size)
    data, late = payload(size), message(300, 5, payload(size))

    def send() -> None:
        for at in range(0, len(late), 1 + len(late) // 3):
            ends.there.sendall(late[at : at + 1 + len(late) // 3])
            time.sleep(0.01)

    sender = threading.Thread(target=send)
    sender.start()
    walk(ends, receive, run=300)
    sender.join(60)
    assert memory.tobytes() == data
    assert ends.counted == (0, size)
    assert not ends.came


def test_the_time_of_a_receive_begins_when_its_message_has_come(ends: Ends) -> None:
    receive, _ = a_receive(5, 4)

    def late() -> None:
        time.sleep(0.3)
        ends.there.sendall(message(1, 5, b"1234"))

    sender = threading.Thread(target=late)
    sender.start()
    begin = time.perf_counter_ns()
    steps = walk(ends, a_send(4, b""), receive)
    sender.join(60)
    (sent_at, sent), (came, done) = steps.spans(begin)
    assert sent_at == begin <= sent
    assert came - sent > 0.2e9 > done - came


def test_what_python_has_already_it_takes(ends: Ends) -> None:
    asked = []
    receive, _ = a_receive(5, 4, asked.append)
    ends.has = [(RANK, 5)]
    walk(ends, receive)
    assert len(asked) == 1


def test_another_message_is_handed_to_the_reader_of_the_connection(ends: Ends) -> None:
    asked = []
    receive, _ = a_receive(5, 4, asked.append)
    others = [(1, 6, b"1234"), (2, 5, b"1234"), (1, 5, b"12345"), (1, 7, payload(9000))]
    for other in others:
        ends.there.sendall(message(*other))
        walk(ends, receive)
    assert len(asked) == len(others)
    assert [codec.decode([each])[0] for each in ends.came] == [m.Data(run, tag) for run, tag, _ in others]


def test_a_wanted_lease_ends_at_the_next_message(ends: Ends) -> None:
    asked = []
    receive, _ = a_receive(5, 4, asked.append)
    lease = Ends.lease

    def wanted() -> Any:
        found = lease(ends)
        assert found is not None
        found[0].want()
        return found

    ends.lease = wanted  # type: ignore[method-assign]
    ends.there.sendall(message(1, 5, b"1234"))
    walk(ends, receive)
    assert len(asked) == 1
    assert [b"".join(frames) for frames in ends.here.read()[0]] == [codec.encode(m.Data(1, 5), b"1234")[0] + b"1234"]


def test_the_other_end_closes_in_the_middle_of_a_message(ends: Ends) -> None:
    asked = []
    receive, _ = a_receive(5, 60_000, asked.append)
    ends.there.sendall(message(1, 5, payload(60_000))[:30_000])
    ends.there.close()
    with pytest.raises(ConnectionResetError):
        walk(ends, receive)
    assert not asked


def outcome(read: Callable[[], list[bytes]]) -> tuple[list[bytes], str]:
    try:
        return read(), ""
    except OSError as error:
        return [], type(error).__name__


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_whatever_comes_is_what_python_alone_would_read(data: st.DataObject) -> None:
    """Of a hostile peer, too: bytes that are no message, or that begin as the one expected."""
    expected = message(1, 5, payload(100))
    stream = b""
    for _ in range(data.draw(st.integers(1, 4))):
        piece = data.draw(
            st.sampled_from([expected, message(1, 6, payload(5000)), message(9, 5, b"")]) | st.binary(max_size=300)
        )
        stream += piece[: data.draw(st.integers(0, len(piece)))] if data.draw(st.booleans()) else piece
    a, b = sockets.socketpair()
    a.sendall(stream)
    alone = Connection(tuned(b))
    plain = outcome(lambda: [b"".join(frames) for frames in alone.read()[0]])
    a.close()
    alone.close()
    ends = Ends()
    ends.there.sendall(stream)
    ends.there.shutdown(sockets.SHUT_WR)
    receive, memory = a_receive(5, 100)

    def read() -> list[bytes]:
        walk(ends, receive)
        whole = [codec.encode(m.Data(1, 5), payload(100))[0] + memory.tobytes()] if ends.counted[1] else []
        if not ends.came:
            ends.came += [b"".join(frames) for frames in ends.here.read()[0]]
        return whole + ends.came

    found = outcome(read)
    if found[1] != "ConnectionResetError":  # which the end of the stream within a message is, once it is read
        assert found == plain
    ends.close()


def test_two_runs_send_over_one_connection_at_once() -> None:
    """Each message whole, whichever way it goes."""
    ends = Ends()
    sizes = [60_000, 3000, 64]
    rounds = 40
    got: list[bytes] = []
    reader = Connection(tuned(ends.there))

    def read() -> None:
        while len(got) < 2 * rounds * len(sizes) - len(others[0].by_python) - len(others[1].by_python) or not over:
            got.extend(b"".join(frames) for frames in reader.read()[0])
            with lock:
                if ends.here.rest:
                    ends.here.flush()
            time.sleep(1e-4)

    lock = threading.Lock()
    others = [Ends(), Ends()]
    over: list[bool] = []

    def rest(data: bytes) -> None:
        with lock:
            ends.here.rest = data

    ends.channel.go_on = rest
    for other in others:
        other.channel, own = ends.channel, other.channel
        own.end()

    def write(number: int) -> None:
        for turn in range(rounds):
            calls = [a_send(10 * turn + at, payload(size, number)) for at, size in enumerate(sizes)]
            walk(others[number], *calls, run=number + 1)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    reading = threading.Thread(target=read)
    for thread in (*threads, reading):
        thread.start()
    for thread in threads:
        thread.join(120)
    over.append(True)
    reading.join(120)
    assert not reading.is_alive()
    seen = [codec.decode([each]) for each in got]
    found = [(message.run, message.tag, bytes(data)) for message, [data] in seen]  # type: ignore[union-attr]
    found += [(number + 1, tag, data) for number, other in enumerate(others) for tag, data in other.by_python]
    expected = [
        (number + 1, 10 * turn + at, payload(size, number))
        for number in range(2)
        for turn in range(rounds)
        for at, size in enumerate(sizes)
    ]
    assert sorted(found) == sorted(expected)
    ends.close()
    reader.close()
