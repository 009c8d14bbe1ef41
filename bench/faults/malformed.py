"""Malformed: malformed messages of all kinds, as bytes, to send to a worker and to a master.

random bytes, truncated and oversized frames, wrong magic and versions, unknown types, replays of an honest session,
declared sizes of 2⁶³, sizes that don't fit, NaN in place of a count, numbers out of range, deep nesting, parts of
payloads that were not announced, offers of memory that does not exist, references into it, connections that never send
anything
"""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache

import msgspec

from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.transport.zeromq.shared_memory import ACCEPTED, Arena

Message = list[bytes]
NAN = float("nan")


def honest(generator: random.Random) -> Message:
    """A message that would be valid in some session, but in none of the victim's."""
    token = generator.randbytes(16)
    number = generator.randrange(2**40)
    message: m.AnyMessage
    message, payload = generator.choice(
        [
            (m.Attach(token, 1), b""),
            (m.Run(number, 1), b""),
            (m.Abort(number), b""),
            (m.Load(number, 1), generator.randbytes(200)),
            (m.Weight("0" * 64, (4,)), bytes(16)),
            (m.Data(number, 3), generator.randbytes(500)),
            (m.Done(number, 1, 1), bytes(64)),
            (m.Ping(number, True), bytes(100)),
            (m.Pong(number, 1, 1), bytes(100)),
            (m.Unload(number), b""),
            (m.Missing(number, ("a" * 64,) * 50), b""),
            (m.Stored(generator.randbytes(30).hex()), b""),
            (m.Loaded(number, 1, 1, 1, NAN), b""),
            (m.Measured(number, (NAN,) * 100, NAN, (NAN,) * 100, NAN), b""),
            (m.Failed(number, 0, "MemoryError", "x" * 1000), b""),
            (m.StatusQuery(number), b""),
            (m.Peers({1: "tcp://127.0.0.1:1"}), b""),
        ]
    )
    payloads = [payload] * m.PAYLOADS.get(type(message), 0)
    return [bytes(frame) for frame in codec.encode(message, *payloads)]


def _prelude(
    kind: int, sizes: Sequence[int], body: bytes, version: int = m.PROTOCOL_VERSION, magic: bytes = b"FOGC"
) -> bytes:
    header = struct.pack("<4sHBB", magic, version, kind, len(sizes) & 255)
    return header + b"".join(struct.pack("<Q", size) for size in sizes) + body


def random_bytes(generator: random.Random) -> Message:
    return [generator.randbytes(generator.randrange(200)) for _ in range(generator.randrange(1, 4))]


def truncated(generator: random.Random) -> Message:
    frames = honest(generator)
    cut = generator.randrange(len(frames))
    frames[cut] = frames[cut][: generator.randrange(len(frames[cut]) + 1)]
    return frames[: cut + 1]


def oversized(generator: random.Random) -> Message:
    frames = honest(generator)
    return [*frames, generator.randbytes(generator.choice([10, 1000, 100_000]))]


def flipped(generator: random.Random) -> Message:
    frames = honest(generator)
    header = bytearray(frames[0])
    for _ in range(generator.randrange(1, 4)):
        header[generator.randrange(len(header))] ^= generator.randrange(1, 256)
    return [bytes(header), *frames[1:]]


def another_version(generator: random.Random) -> Message:
    body = msgspec.msgpack.encode([1, 2, 3])
    return [_prelude(0, [], body, version=generator.choice([0, 2, 3, 99, 65535]))]


def another_magic(generator: random.Random) -> Message:
    return [_prelude(0, [], b"\x90", magic=generator.choice([b"HTTP", b"GET ", b"fogc", bytes(4)]))]


def unknown_type(generator: random.Random) -> Message:
    return [_prelude(generator.randrange(len(m.KINDS), 256), [], b"\x90")]


def huge_size(generator: random.Random) -> Message:
    kind = m.KINDS.index(generator.choice([m.Load, m.Weight, m.Data, m.Done, m.Ping, m.Pong]))
    size = generator.choice([2**63, 2**63 - 1, 2**64 - 1, 2**62, 2**31, 2**40])
    return [_prelude(kind, [size], msgspec.msgpack.encode([1, 1])), generator.randbytes(64)]


def large_size_never_filled(generator: random.Random) -> Message:
    """The start of a payload of 2 GB that never continues."""
    kind = m.KINDS.index(generator.choice([m.Load, m.Data, m.Ping]))
    return [_prelude(kind, [2**31 - 1], msgspec.msgpack.encode([1, 1])), bytes(generator.choice([64, 256 << 10]))]


def not_a_number(generator: random.Random) -> Message:
    """NaN, infinities, negative and huge numbers in place of counts."""
    kind = generator.randrange(len(m.KINDS))
    values = [NAN, float("inf"), -1, 2**63, "7", None, [], {}, 1.5, b"x", True]
    body = msgspec.msgpack.encode([generator.choice(values) for _ in range(generator.randrange(8))])
    payloads = [bytes(8)] * m.PAYLOADS.get(m.KINDS[kind], 0)
    return [_prelude(kind, [8] * len(payloads), body), *payloads]


def nested(generator: random.Random) -> Message:
    return [_prelude(generator.randrange(len(m.KINDS)), [], b"\x91" * generator.choice([100, 5000, 100_000]) + b"\xc0")]


def stray_part(generator: random.Random) -> Message:
    return [b"", generator.randbytes(generator.randrange(1000))]


@cache
def arena() -> Arena:
    return Arena(1 << 20)


def offer(generator: random.Random) -> Message:
    """An offer of shared memory: of any process and descriptor, of this process with a wrong token or size, or a correct
    one."""
    frame = bytearray(arena().offer)
    match generator.randrange(4):
        case 0:
            wrong = generator.choice([0, 1, os.getppid(), 2**32 - 1]), generator.randrange(20), generator.getrandbits(64)
            frame = bytearray(struct.pack("<4sIIQ16s", b"FOGS", *wrong, generator.randbytes(16)))
        case 1:
            frame[generator.randrange(4, len(frame))] ^= generator.randrange(1, 256)
        case 2:
            frame = frame[: generator.randrange(4, len(frame))]
    return [bytes(frame), *generator.choice([[], [ACCEPTED], [b"refused"]])]


def reference(generator: random.Random) -> Message:
    """A reference to a payload in this process's memory: anywhere in it, across its end, or far beyond."""
    places = (0, 4096, 4097, 8192, 1 << 20, (1 << 20) - 4, 2**63, 2**64 - 1)
    where = generator.choice(places), generator.getrandbits(32), generator.choice(places), generator.choice(places)
    header = honest(generator)[0]
    return [header, b"", struct.pack("<QIQQ", *where)[: generator.choice([28, 28, 28, 27, 0])]]


def empty(generator: random.Random) -> Message:
    return [b""] * generator.randrange(1, 4)


KINDS: tuple[Callable[[random.Random], Message], ...] = (
    honest,
    random_bytes,
    truncated,
    oversized,
    flipped,
    another_version,
    another_magic,
    unknown_type,
    huge_size,
    large_size_never_filled,
    not_a_number,
    nested,
    stray_part,
    offer,
    reference,
    empty,
)


def nonsense(generator: random.Random, *, replays: Sequence[Message] = ()) -> Message:
    """One message of any kind; one in ten is a replay of an honest master's message, where there are any."""
    if replays and generator.random() < 0.1:
        return list(generator.choice(replays))
    return generator.choice(KINDS)(generator)


def half_open(address: tuple[str, int], count: int, generator: random.Random) -> list[socket.socket]:
    """So many TCP connections that send nothing, the start of a ZMTP greeting, or other bytes."""
    openings = (
        b"",
        b"\xff\x00\x00\x00",
        b"\xff" + bytes(8) + b"\x7f\x03",
        b"GET / HTTP/1.1\r\n\r\n",
        generator.randbytes(64),
    )
    made = []
    for _ in range(count):
        with suppress(OSError):
            connection = socket.create_connection(address, timeout=2.0)
            connection.setblocking(False)
            made.append(connection)
            with suppress(OSError):
                connection.send(generator.choice(openings))
    return made
