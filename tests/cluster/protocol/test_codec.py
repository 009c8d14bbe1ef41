"""The codec: everything comes back as it went in, and nothing else comes in at all."""

from __future__ import annotations

import contextlib
import math
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.peer_text import cleaned
from fogconv.errors import WireError
from fogconv.hardware.latency.samples import DeviceLoad
from fogconv.ir.geometry import ConvSpec, MapSpec

counts = st.integers(0, 2**62)
nanoseconds = st.integers(-(2**62), 2**62)
ranks = st.integers(0, 65535)
texts = st.text(max_size=50)
keys = st.text(min_size=1, max_size=80)
tokens = st.binary(min_size=16, max_size=16)
floats = st.floats(allow_nan=False)
specs = st.builds(
    ConvSpec,
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(3, 9),
    st.integers(3, 9),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
)

shares = st.floats(0, 1)
celsius = st.none() | st.floats(-300, 10_000)
loads = st.builds(DeviceLoad, shares, st.floats(0, 1e6), shares, celsius, *[st.none() | shares] * 3, celsius)
pairs = st.tuples(counts.map(lambda n: n + 1), counts.map(lambda n: n + 1))
maps = st.builds(MapSpec, texts, *[counts.map(lambda n: n + 1)] * 4, pairs, pairs)

digests = st.text("0123456789abcdef", max_size=64)
machines = st.builds(
    m.Machine, digests, digests, st.lists(counts, max_size=4).map(tuple), st.floats(0, 8192, allow_nan=False)
)

MESSAGES: dict[type[Any], st.SearchStrategy[Any]] = {
    m.Hello: st.builds(m.Hello, tokens, ranks, ranks, texts, floats),
    m.Welcome: st.builds(m.Welcome, ranks, texts, counts, counts, counts, counts, texts, texts, machines, digests),
    m.Refused: st.builds(m.Refused, texts),
    m.Peers: st.builds(m.Peers, st.dictionaries(ranks, texts, max_size=5), st.dictionaries(ranks, texts, max_size=5)),
    m.Attach: st.builds(m.Attach, tokens, ranks),
    m.Attached: st.builds(m.Attached, ranks),
    m.Load: st.builds(m.Load, counts, counts),
    m.Missing: st.builds(m.Missing, counts, st.lists(keys, max_size=5).map(tuple)),
    m.Weight: st.builds(m.Weight, keys, st.lists(counts, max_size=8).map(tuple)),
    m.Stored: st.builds(m.Stored, keys),
    m.Loaded: st.builds(m.Loaded, counts, counts, counts, counts, floats),
    m.Unload: st.builds(m.Unload, counts),
    m.Run: st.builds(m.Run, counts, counts),
    m.Data: st.builds(m.Data, counts, counts),
    m.Done: st.builds(m.Done, counts, counts, counts),
    m.Failed: st.builds(m.Failed, counts, counts, texts, texts),
    m.Abort: st.builds(m.Abort, counts),
    m.Ping: st.builds(m.Ping, counts, st.booleans(), counts),
    m.Pong: st.builds(m.Pong, counts, nanoseconds, nanoseconds),
    m.Measured: st.builds(
        m.Measured,
        counts,
        st.lists(floats, max_size=4).map(tuple),
        floats,
        st.lists(floats, max_size=4).map(tuple),
        floats,
        st.lists(loads, max_size=4).map(tuple),
    ),
    m.Measure: st.builds(
        m.Measure,
        counts,
        st.lists(specs, max_size=3).map(tuple),
        st.integers(1, 1000),
        st.lists(maps, max_size=3).map(tuple),
    ),
    m.Status: st.builds(
        m.Status,
        counts,
        texts,
        texts,
        floats,
        *[counts] * 9,
        loads,
        st.booleans(),
        st.booleans(),
    ),
    m.StatusQuery: st.builds(m.StatusQuery, counts),
    m.Bye: st.builds(m.Bye),
}
messages = st.one_of(*MESSAGES.values())


def frames_of(message: Any, payload: bytes = b"") -> list[codec.Frame]:
    return codec.encode(message, *[payload] * m.PAYLOADS.get(type(message), 0))


def test_every_type_is_covered() -> None:
    assert set(m.KINDS) == set(MESSAGES), "add a strategy for a new type"


@pytest.mark.parametrize(
    "load",
    [[1.5], [-0.1], [math.nan], [0.0, math.inf], [0.0, 1.0, 2.0], [0.0, 1.0, 0.5, math.nan], [0.0] * 9, [None]],
    ids=str,
)
def test_a_worker_that_lies_about_its_load_is_not_understood(load: list[object]) -> None:
    status = m.Status(1, "ready", "", 1.0, 0, 0, 0, 0, 0, 0, 0, 0, 1, DeviceLoad(), False, True)
    body = msgspec.to_builtins(status)
    body[-3] = load
    [header] = codec.encode(status)
    with pytest.raises(WireError, match="malformed Status"):
        codec.decode([bytes(header)[: codec._PRELUDE.size] + msgspec.msgpack.encode(body)])


@given(messages, st.binary(max_size=300))
def test_what_is_encoded_decodes_to_itself(message: Any, payload: bytes) -> None:
    frames = frames_of(message, payload)
    decoded, payloads = codec.decode(frames)
    assert decoded == cleaned(message)
    assert [bytes(part) for part in payloads] == [payload] * m.PAYLOADS.get(type(message), 0)
    assert codec.peek(frames[0]) == tuple(len(part) for part in payloads)


@given(messages, st.binary(max_size=300))
def test_header_and_payload_may_share_a_frame(message: Any, payload: bytes) -> None:
    decoded, payloads = codec.decode([b"".join(frames_of(message, payload))])
    assert decoded == cleaned(message)
    assert [bytes(part) for part in payloads] == [payload] * m.PAYLOADS.get(type(message), 0)


@settings(max_examples=500)
@given(st.lists(st.binary(max_size=60), max_size=3))
def test_random_frames_are_a_wire_error(frames: list[bytes]) -> None:
    with pytest.raises(WireError):
        codec.decode(frames)


@settings(max_examples=500)
@given(
    st.integers(0, len(m.KINDS) + 3),
    st.integers(0, 3),
    st.lists(st.integers(0, 2**64 - 1), max_size=3),
    st.binary(max_size=60),
)
def test_a_right_prelude_before_random_bytes_decodes_or_is_a_wire_error(
    kind: int, count: int, sizes: list[int], body: bytes
) -> None:
    header = struct.pack("<4sHBB", codec.MAGIC, m.PROTOCOL_VERSION, kind, count)
    header += b"".join(struct.pack("<Q", size) for size in sizes) + body
    try:
        message, _ = codec.decode([header, *([b""] * len(sizes))])
    except WireError:
        return
    assert type(message) is m.KINDS[kind]


@settings(max_examples=500)
@given(messages, st.binary(max_size=50), st.data())
def test_a_changed_byte_never_raises_anything_but_a_wire_error(message: Any, payload: bytes, data: st.DataObject) -> None:
    frames = frames_of(message, payload)
    header = bytearray(frames[0])
    place = data.draw(st.integers(0, len(header) - 1))
    header[place] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(WireError):
        codec.decode([bytes(header), *frames[1:]])


@settings(max_examples=300)
@given(messages, st.data())
def test_truncated_headers_are_a_wire_error(message: Any, data: st.DataObject) -> None:
    frames = frames_of(message, b"abc")
    cut = data.draw(st.integers(0, len(frames[0]) - 1))
    with pytest.raises(WireError):
        codec.decode([frames[0][:cut], *frames[1:]])


def test_declared_sizes_are_checked_before_anything_else() -> None:
    header = struct.pack("<4sHBBQ", codec.MAGIC, m.PROTOCOL_VERSION, m.KINDS.index(m.Data), 1, 2**63)
    with pytest.raises(WireError, match=r"9223372036854775808 bytes; the limit is"):
        codec.peek(header)
    frames = codec.encode(m.Data(1, 1), b"x" * 100)
    with pytest.raises(WireError, match="limit is 99"):
        codec.peek(frames[0], limit=99)
    assert codec.peek(frames[0], limit=100) == (100,)


def test_a_payload_that_is_not_as_long_as_declared_is_a_wire_error() -> None:
    header, payload = codec.encode(m.Data(1, 1), b"12345678")
    for wrong in ([header], [header, payload[:-1]], [header, payload, payload], [header, b""]):
        with pytest.raises(WireError):
            codec.decode(wrong)


def test_a_payload_where_none_belongs_is_a_wire_error() -> None:
    with pytest.raises(WireError, match="carries 0"):
        codec.encode(m.Bye(), b"x")
    with pytest.raises(WireError, match="carries 1"):
        codec.encode(m.Data(1, 1))
    with pytest.raises(WireError):
        codec.decode([*codec.encode(m.Bye()), b"x"])


def test_another_version_is_named_with_ours() -> None:
    frames = codec.encode(m.Bye())
    header = bytearray(frames[0])
    header[4:6] = struct.pack("<H", 7)
    with pytest.raises(codec.VersionError, match=f"version 7, this fogconv speaks version {m.PROTOCOL_VERSION}") as error:
        codec.decode([bytes(header)])
    assert error.value.version == 7


def test_numbers_out_of_range_are_a_wire_error() -> None:
    prelude = struct.pack("<4sHBB", codec.MAGIC, m.PROTOCOL_VERSION, m.KINDS.index(m.Abort), 0)
    for number in (-1, 2**63, 1.5, float("nan"), None, "1"):
        with pytest.raises(WireError, match="malformed Abort"):
            codec.decode([prelude + msgspec.msgpack.encode([number])])


def test_a_spec_that_describes_no_layer_is_a_wire_error() -> None:
    prelude = struct.pack("<4sHBB", codec.MAGIC, m.PROTOCOL_VERSION, m.KINDS.index(m.Measure), 0)
    spec = msgspec.to_builtins(ConvSpec(3, 4, 5, 5, (3, 3)))
    spec["groups"] = 2
    with pytest.raises(WireError, match="malformed Measure"):
        codec.decode([prelude + msgspec.msgpack.encode([1, [spec], 3])])


def test_deep_nesting_is_a_wire_error() -> None:
    prelude = struct.pack("<4sHBB", codec.MAGIC, m.PROTOCOL_VERSION, m.KINDS.index(m.Refused), 0)
    with pytest.raises(WireError):
        codec.decode([prelude + b"\x91" * 100_000])
