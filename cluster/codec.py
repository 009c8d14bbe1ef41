"""Codec: a message to frames and back.

    header frame    magic "FOGC" | version u16 | kind u8 | n u8 | n payload sizes u64 | msgpack body      (little endian)
    payload frames  n frames of raw bytes, as long as the sizes say

``peek`` reads the prelude alone, so that a transport checks sizes before it takes memory for them. Everything that does not
decode is a WireError; nothing is ever unpickled. The prelude's first six bytes stay the same in all versions, so that
unlike versions can at least name each other.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

from fogconv.cluster.messages import KINDS, PAYLOADS, PROTOCOL_VERSION, AnyMessage
from fogconv.errors import WireError

Frame = bytes | memoryview
"""One frame: bytes, or a contiguous view of bytes."""

MAGIC = b"FOGC"
MAX_HEADER_BYTES = 4 << 20
"""A Load's table of weights is the longest header; a few hundred KB for the largest models."""
MAX_PAYLOAD_BYTES = (1 << 31) - 1
"""What MPI's counts hold; the largest shard of VGG-16's first linear layer has 411 MB."""

_PRELUDE = struct.Struct("<4sHBB")
_SIZE = struct.Struct("<Q")
_KIND_OF = {kind: number for number, kind in enumerate(KINDS)}
_PAYLOADS_OF = tuple(PAYLOADS.get(kind, 0) for kind in KINDS)
_encode = msgspec.msgpack.Encoder().encode
_DECODERS = tuple(msgspec.msgpack.Decoder(kind) for kind in KINDS)


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

    Raises WireError when their number or size is not what the type carries.
    """
    kind = _KIND_OF[type(message)]
    if len(payloads) != _PAYLOADS_OF[kind]:
        raise WireError(f"{type(message).__name__} carries {_PAYLOADS_OF[kind]} payloads, not {len(payloads)}")
    if not payloads:
        return [_PRELUDE.pack(MAGIC, PROTOCOL_VERSION, kind, 0) + _encode(message)]
    sizes = b""
    for payload in payloads:
        size = nbytes(payload)
        if size > MAX_PAYLOAD_BYTES:
            raise WireError(f"a payload of {size} bytes is over the limit of {MAX_PAYLOAD_BYTES}")
        sizes += _SIZE.pack(size)
    return [_PRELUDE.pack(MAGIC, PROTOCOL_VERSION, kind, len(payloads)) + sizes + _encode(message), *payloads]


def nbytes(frame: Frame) -> int:
    return len(frame) if isinstance(frame, bytes) else frame.nbytes


def peek(header: Frame, limit: int = MAX_PAYLOAD_BYTES) -> tuple[int, ...]:
    """The payload sizes that a header declares, checked against ``limit``. Raises WireError, VersionError."""
    size = nbytes(header)
    if size < _PRELUDE.size:
        raise WireError(f"a header of {size} bytes is shorter than its prelude of {_PRELUDE.size}")
    if size > MAX_HEADER_BYTES:
        raise WireError(f"a header of {size} bytes is over the limit of {MAX_HEADER_BYTES}")
    magic, version, kind, count = _PRELUDE.unpack_from(header)
    if magic != MAGIC:
        raise WireError("not a message of fogconv: wrong magic bytes")
    if version != PROTOCOL_VERSION:
        raise VersionError(version)
    if kind >= len(KINDS):
        raise WireError(f"unknown message type {kind}")
    if count != _PAYLOADS_OF[kind]:
        raise WireError(f"{KINDS[kind].__name__} carries {_PAYLOADS_OF[kind]} payloads, not {count}")
    if size < _PRELUDE.size + count * _SIZE.size:
        raise WireError(f"a header of {size} bytes is too short for {count} payload sizes")
    if not count:
        return ()
    sizes = struct.unpack_from(f"<{count}Q", header, _PRELUDE.size)
    for declared in sizes:
        if declared > limit:
            raise WireError(f"{KINDS[kind].__name__} declares a payload of {declared} bytes; the limit is {limit}")
    return sizes


def decode(frames: Sequence[Frame], limit: int = MAX_PAYLOAD_BYTES) -> tuple[AnyMessage, Sequence[Frame]]:
    """A message and its payload frames, which are those given. Raises WireError, VersionError."""
    if not frames:
        raise WireError("a message without frames")
    header = frames[0]
    sizes = peek(header, limit)
    payloads = frames[1:]
    if len(payloads) != len(sizes):
        raise WireError(f"{len(sizes)} payloads declared, {len(payloads)} came")
    for payload, declared in zip(payloads, sizes, strict=True):
        if nbytes(payload) != declared:
            raise WireError(f"a payload of {declared} bytes declared, {nbytes(payload)} came")
    kind = memoryview(header)[6]
    try:
        body = memoryview(header)[_PRELUDE.size + _SIZE.size * len(sizes) :]
        message: AnyMessage = _DECODERS[kind].decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        # ValueError: a ConvSpec's own check; UnicodeDecodeError is one too.
        raise WireError(f"a malformed {KINDS[kind].__name__}: {error}") from error
    return message, payloads
