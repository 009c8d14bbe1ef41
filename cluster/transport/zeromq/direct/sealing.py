"""Sealing: the messages of a direct connection beside an encrypted link are encrypted too, by the library that ZeroMQ uses.

    cipher    AEGIS-128L (draft-irtf-cfrg-aegis-aead) where both processors have instructions for AES, else ChaCha20-Poly1305
              (RFC 8439), both of libsodium: what is changed on its way does not open. Per byte AEGIS takes a fifth
    key       one for each direction of each connection, random, sent over the encrypted link: as secret and as well
              authenticated as what is said there
    nonce     the number of the message in its direction: one that is repeated, left out or moved does not open

Sizes and times can be seen, as with CURVE.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

KEY_BYTES = 32
"""Of which a cipher takes as many as it needs."""


@dataclass(frozen=True, slots=True)
class Cipher:
    """One of libsodium's. A sealed message is longer by ``tag_bytes``."""

    name: str
    key_bytes: int
    nonce_bytes: int
    tag_bytes: int


CHACHA = Cipher("chacha20poly1305_ietf", 32, 12, 16)
AEGIS = Cipher("aegis128l", 16, 16, 32)


class Seal:
    """Seals what goes out and opens what comes in, in order. Not for two threads at a time.

    Raises OSError where the system has no libsodium, or one without this cipher: see ``available`` and ``fast``.
    """

    def __init__(self, out_key: bytes, in_key: bytes, cipher: Cipher = CHACHA) -> None:
        library = _library()
        if library is None or len(out_key) != KEY_BYTES or len(in_key) != KEY_BYTES:
            raise OSError("no libsodium, or no key")
        self._encrypt = _function(library, cipher, "encrypt", _ENCRYPT)
        self._decrypt = _function(library, cipher, "decrypt", _DECRYPT)
        self._out_key, self._in_key = out_key[: cipher.key_bytes], in_key[: cipher.key_bytes]
        self.tag_bytes, self._nonce_bytes = cipher.tag_bytes, cipher.nonce_bytes
        self._sent = self._opened = 0

    def seal(self, plain: bytes, head: bytes) -> bytearray:
        """The sealed form of a message; ``head`` is not hidden, and can't be changed either."""
        sealed = bytearray(len(plain) + self.tag_bytes)
        place = (ctypes.c_char * len(sealed)).from_buffer(sealed)
        nonce = self._sent.to_bytes(self._nonce_bytes, "little")
        self._sent += 1
        self._encrypt(place, None, plain, len(plain), head, len(head), None, nonce, self._out_key)
        return sealed

    def opened(self, sealed: bytes, head: bytes) -> bytes:
        """The message, of one that is short."""
        place = bytearray(sealed)
        self.open(place, head)
        return bytes(place[: -self.tag_bytes])

    def open(self, sealed: bytearray | memoryview, head: bytes) -> None:
        """Open a message where it lies; its last ``tag_bytes`` are then nothing. Raises ConnectionAbortedError for one that
        was changed."""
        place = (ctypes.c_char * len(sealed)).from_buffer(sealed)
        nonce = self._opened.to_bytes(self._nonce_bytes, "little")
        self._opened += 1
        if self._decrypt(place, None, None, place, len(sealed), head, len(head), nonce, self._in_key) != 0:
            raise ConnectionAbortedError("a message was changed on its way")


_BYTES, _MEMORY, _SIZE = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_ulonglong
_ENCRYPT = (_MEMORY, _MEMORY, _BYTES, _SIZE, _BYTES, _SIZE, _MEMORY, _BYTES, _BYTES)
_DECRYPT = (_MEMORY, _MEMORY, _MEMORY, _MEMORY, _SIZE, _BYTES, _SIZE, _BYTES, _BYTES)


def _function(library: Any, cipher: Cipher, what: str, arguments: Sequence[Any]) -> Any:
    try:
        found = getattr(library, f"crypto_aead_{cipher.name}_{what}")
    except AttributeError:
        raise OSError(f"this libsodium has no {cipher.name}") from None
    found.argtypes = arguments
    return found


def available() -> bool:
    """Whether messages can be sealed here."""
    return _library() is not None


@cache
def fast() -> bool:
    """Whether AEGIS is the faster one here: the processor has instructions for AES, and libsodium has the cipher."""
    library = _library()
    try:
        return library is not None and bool(
            library.crypto_aead_aegis128l_encrypt and library.crypto_aead_aes256gcm_is_available()
        )
    except AttributeError:
        return False


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
    importlib.import_module("zmq")
    try:
        maps = Path("/proc/self/maps").read_text(errors="replace")
    except OSError:
        return []
    paths = (line.split(maxsplit=5)[-1] for line in maps.splitlines() if "libsodium" in line)
    return list(dict.fromkeys(paths))
