"""Sealing: the messages of a direct connection beside an encrypted link are encrypted too, by the library that ZeroMQ uses.

    cipher    ChaCha20-Poly1305 (RFC 8439) of libsodium: what is changed on its way does not open
    key       one for each direction of each connection, random, sent over the encrypted link: as secret and as well
              authenticated as what is said there
    nonce     the number of the message in its direction: one that is repeated, left out or moved does not open

Sizes and times can be seen, as with CURVE.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

KEY_BYTES = 32
TAG_BYTES = 16
"""By so much a sealed message is longer."""
_NONCE_BYTES = 12


class Seal:
    """Seals what goes out and opens what comes in, in order. Not for two threads at a time.

    Raises OSError where the system has no libsodium: see ``available``.
    """

    def __init__(self, out_key: bytes, in_key: bytes) -> None:
        library = _library()
        if library is None or len(out_key) != KEY_BYTES or len(in_key) != KEY_BYTES:
            raise OSError("no libsodium, or no key")
        self._encrypt = library.crypto_aead_chacha20poly1305_ietf_encrypt
        self._decrypt = library.crypto_aead_chacha20poly1305_ietf_decrypt
        self._out_key, self._in_key = out_key, in_key
        self._sent = self._opened = 0

    def seal(self, plain: bytes, head: bytes) -> bytearray:
        """The sealed form of a message; ``head`` is not hidden, and can't be changed either."""
        sealed = bytearray(len(plain) + TAG_BYTES)
        place = (ctypes.c_char * len(sealed)).from_buffer(sealed)
        nonce = self._sent.to_bytes(_NONCE_BYTES, "little")
        self._sent += 1
        self._encrypt(place, None, plain, _size(len(plain)), head, _size(len(head)), None, nonce, self._out_key)
        return sealed

    def opened(self, sealed: bytes, head: bytes) -> bytes:
        """The message, of one that is short."""
        place = bytearray(sealed)
        self.open(place, head)
        return bytes(place[:-TAG_BYTES])

    def open(self, sealed: bytearray | memoryview, head: bytes) -> None:
        """Open a message where it lies; its last TAG_BYTES are then nothing. Raises ConnectionAbortedError for one that was
        changed."""
        place = (ctypes.c_char * len(sealed)).from_buffer(sealed)
        nonce = self._opened.to_bytes(_NONCE_BYTES, "little")
        self._opened += 1
        if self._decrypt(place, None, None, place, _size(len(sealed)), head, _size(len(head)), nonce, self._in_key) != 0:
            raise ConnectionAbortedError("a message was changed on its way")


_size = ctypes.c_ulonglong


def available() -> bool:
    """Whether messages can be sealed here."""
    return _library() is not None


@cache
def _library() -> Any:
    """libsodium, preferably the one that ZeroMQ has loaded; None where there is none."""
    for path in _paths():
        try:
            library = ctypes.CDLL(path) if path else None
            if library is not None and library.sodium_init() >= 0 and library.crypto_aead_chacha20poly1305_ietf_decrypt:
                return library
        except (OSError, AttributeError):
            continue
    return None


def _paths() -> Iterator[str | None]:
    yield from _loaded()
    yield ctypes.util.find_library("sodium")  # which starts processes


def _loaded() -> list[str]:
    try:
        maps = Path("/proc/self/maps").read_text(errors="replace")
    except OSError:
        return []
    paths = (line.split(maxsplit=5)[-1] for line in maps.splitlines() if "libsodium" in line)
    return list(dict.fromkeys(paths))
