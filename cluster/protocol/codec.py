"""Codec: a message to frames and back.

    header frame    magic "FOGC" | version u16 | kind u8 | n u8 | n payload sizes u64 | msgpack body      (little endian)
    payload frames  n frames of raw bytes, as long as the sizes say

``peek`` reads the prelude alone, so that a transport checks sizes before it allocates memory for them. Data that does not
decode raises a WireError; nothing is unpickled. The prelude's first six bytes are the same in all versions, so that
different versions can name each other.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

from fogconv.cluster.protocol.messages import KINDS, PAYLOADS, PROTOCOL_VERSION, AnyMessage, Data
from fogconv.cluster.protocol.peer_text import cleaned
from fogconv.errors import WireError

Frame = bytes | memoryview
"""One frame: bytes, or a contiguous one-dimensional view of bytes (so that ``len`` counts bytes)."""

MAGIC = b"FOGC"
MAX_HEADER_BYTES = 4 << 20
"""A Load's table of weights is the longest header; a few hundred KB for the largest models."""
MAX_PAYLOAD_BYTES = (1 << 31) - 1
"""The range of MPI's counts; the largest shard of VGG-16's first linear layer has 411 MB."""

_PRELUDE = struct.Struct("<4sHBB")
_SIZE = struct.Struct("<Q")
_BODY = _PRELUDE.size + _SIZE.size
_KIND_OF = {kind: number for number, kind in enumerate(KINDS)}
_PAYLOADS_OF = tuple(PAYLOADS.get(kind, 0) for kind in KINDS)
_PRELUDES = tuple(_PRELUDE.pack(MAGIC, PROTOCOL_VERSION, kind, count) for kind, count in enumerate(_PAYLOADS_OF))
_DATA_PRELUDE = _PRELUDES[_KIND_OF[Data]]
_KIND_OF_PRELUDE = {prelude: kind for kind, prelude in enumerate(_PRELUDES)}
_encode = msgspec.msgpack.Encoder().encode
_DECODE = tuple(msgspec.msgpack.Decoder(kind).decode for kind in KINDS)
_decode_data = _DECODE[_KIND_OF[Data]]


class VersionError(WireError):
    """The peer speaks another protocol version."""

    def __init__(self, version: int) -> None:
        super().__init__(
            f"the peer speaks protocol version {version}, this fogconv speaks version {PROTOCOL_VERSION}: "
            "install the same fogconv on both"
        )
        self.version = version


def encode(message: AnyMessage, *payloads: Frame) -> list[Frame]:
    """Frames of a message. The payloads are not copied.

    Raises WireError when their number or size does not match the type.
    """
    kind = _KIND_OF[type(message)]
    if len(payloads) != _PAYLOADS_OF[kind]:
        raise WireError(f"{type(message).__name__} carries {_PAYLOADS_OF[kind]} payloads, not {len(payloads)}")
    if not payloads:
        return [_PRELUDES[kind] + _encode(message)]
    size = len(payloads[0])
    if size > MAX_PAYLOAD_BYTES:
        raise WireError(f"a payload of {size} bytes is over the limit of {MAX_PAYLOAD_BYTES}")
    return [_PRELUDES[kind] + _SIZE.pack(size) + _encode(message), payloads[0]]


def run_in_data(run: int) -> tuple[int, bytes]:
    """Where the number of its run stands in the header of a Data, and its bytes: all in which one run's differs from
    another's."""
    return _BODY + 1, _encode(run)


def peek(header: Frame, limit: int = MAX_PAYLOAD_BYTES) -> tuple[int, ...]:
    """The payload sizes that a header declares, checked against ``limit``. Raises WireError, VersionError."""
    size = _prelude(header, limit)[1]
    return () if size is None else (size,)


def decode(frames: Sequence[Frame], limit: int = MAX_PAYLOAD_BYTES) -> tuple[AnyMessage, Sequence[Frame]]:
    """A message and its payload frames, which are those given. Raises WireError, VersionError.

    A single frame may hold header and payload, one after the other. Texts for people are made printable.
    """
    if not frames:
        raise WireError("a message without frames")
    header = frames[0]
    if len(frames) == 2 and header[:_BODY] == _DATA_PRELUDE + _SIZE.pack(len(frames[1])) and len(frames[1]) <= limit:
        # Most messages of a run, by as little code as there can be: between two convolutions it is cold.
        try:
            return _decode_data(header[_BODY:]), frames[1:]
        except msgspec.MsgspecError:
            pass  # what is wrong is said below
    kind, size = _prelude(header, limit)
    payloads = frames[1:]
    if size is None:
        if payloads:
            raise WireError(f"no payload declared, {len(payloads)} received")
        body = header[_PRELUDE.size :]
    elif payloads:
        if len(payloads) != 1:
            raise WireError(f"1 payloads declared, {len(payloads)} came")
        if len(payloads[0]) != size:
            raise WireError(f"a payload of {size} bytes declared, {len(payloads[0])} received")
        body = header[_BODY:]
    else:
        cut = len(header) - size
        if cut < _BODY:
            raise WireError("1 payloads declared, 0 came")
        body, payloads = header[_BODY:cut], (header[cut:],)
    try:
        message: AnyMessage = _DECODE[kind](body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        # ValueError: a ConvSpec's own check; UnicodeDecodeError is one too.
        raise WireError(f"a malformed {KINDS[kind].__name__}: {error}") from error
    return cleaned(message), payloads


def _prelude(header: Frame, limit: int) -> tuple[int, int | None]:
    """(kind, the payload's size). Types carry one payload at most."""
    size = len(header)
    known = _KIND_OF_PRELUDE.get(bytes(header[: _PRELUDE.size]))
    if known is None:
        raise _not_ours(header)
    if size > MAX_HEADER_BYTES:
        raise WireError(f"a header of {size} bytes is over the limit of {MAX_HEADER_BYTES}")
    if not _PAYLOADS_OF[known]:
        return known, None
    if size < _BODY:
        raise WireError(f"a header of {size} bytes is too short for a payload size")
    (declared,) = _SIZE.unpack_from(header, _PRELUDE.size)
    if declared > limit:
        raise WireError(f"{KINDS[known].__name__} declares a payload of {declared} bytes; the limit is {limit}")
    return known, declared


def _not_ours(header: Frame) -> WireError:
    """The error for a prelude of no known type."""
    size = len(header)
    if size < _PRELUDE.size:
        return WireError(f"a header of {size} bytes is shorter than its prelude of {_PRELUDE.size}")
    magic, version, kind, count = _PRELUDE.unpack_from(header)
    if magic != MAGIC:
        return WireError("not a message of fogconv: wrong magic bytes")
    if version != PROTOCOL_VERSION:
        return VersionError(version)
    if kind >= len(KINDS):
        return WireError(f"unknown message type {kind}")
    return WireError(f"{KINDS[kind].__name__} carries {_PAYLOADS_OF[kind]} payloads, not {count}")
