"""Opening: how two ends that trust each other come to a direct connection.

    dialing end                                   listening end
    ask: "far", or "near" on one machine    ─▶    listens on a free port, or at a name without a file, for a short time
    dials it, shows the first half          ◀─    offer: a secret of two halves, and the port or the name
    takes it, if the second half comes      ◀─    takes the connection that shows the first half, shows the second

Beside an encrypted link the ask is "sealed", with a word more where this end is fast at AES; the secret then has a key for
each direction, and the offer says by which cipher they seal (see ``sealing``). Ask and offer travel over the link between
the two, so that a secret is as safe as the link. Both halves are shown because either end could reach another process: a
port may be forwarded. Where anything fails the link stays as it was.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import socket as sockets
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from fogconv.cluster.transport.zeromq.direct.connection import tuned
from fogconv.cluster.transport.zeromq.direct.sealing import AEGIS, CHACHA, KEY_BYTES, Cipher, Seal, fast

MAGIC = b"FOGD"
ASK_FAR, ASK_NEAR, ASK_SEALED = MAGIC + b"?far", MAGIC + b"?near", MAGIC + b"?sealed"
ASK_FAST = MAGIC + b"?sealed, and fast at AES"
SEALED_ASKS = (ASK_SEALED, ASK_FAST)
HALF_BYTES = 16
OPEN_S = 10.0
"""How long the listening end waits for the other."""
MOST_CALLERS = 8
"""Connections to one port that have shown nothing yet; the oldest goes."""

BACKLOG = 64

_LINUX = sys.platform.startswith("linux")
_OFFER, _PORT, _AEGIS_PORT, _NAME = MAGIC + b"!", b"p", b"a", b"n"


def is_about_opening(frame: bytes) -> bool:
    """Whether a frame is an ask or an offer."""
    return frame[: len(MAGIC)] == MAGIC


@dataclass(eq=False, slots=True)
class Calling:
    """The dialing end, until the second half has come."""

    raw: sockets.socket
    secret: bytes
    cipher: Cipher | None = None
    greeted: bool = False
    heard: bytes = b""

    @property
    def watched(self) -> tuple[sockets.socket, ...]:
        return (self.raw,)

    def go_on(self, raw: sockets.socket) -> sockets.socket | None:
        """The socket has something: the connection, once it is one. Raises OSError where it will be none."""
        if not self.greeted:
            error = raw.getsockopt(sockets.SOL_SOCKET, sockets.SO_ERROR)
            if error:
                raise OSError(error, os.strerror(error))
            if raw.send(self.secret[:HALF_BYTES]) != HALF_BYTES:
                raise ConnectionAbortedError("no room for a greeting")
            self.greeted = True
            return None
        self.heard += _some(raw, HALF_BYTES - len(self.heard))
        if len(self.heard) < HALF_BYTES:
            return None
        if not hmac.compare_digest(self.heard, self.secret[HALF_BYTES : 2 * HALF_BYTES]):
            raise ConnectionAbortedError("it is another process")
        return raw

    def seal(self) -> Seal | None:
        """What seals the connection, on this end."""
        dialing, listening = _keys(self.secret)
        return None if self.cipher is None else Seal(dialing, listening, self.cipher)


@dataclass(eq=False, slots=True)
class Listening:
    """The listening end, until one has shown the first half. ``callers``: those that have yet to."""

    listener: sockets.socket
    secret: bytes
    until: float
    cipher: Cipher | None = None
    callers: dict[sockets.socket, bytes] = field(default_factory=dict)

    @property
    def watched(self) -> tuple[sockets.socket, ...]:
        return (self.listener, *self.callers)

    def go_on(self, raw: sockets.socket) -> sockets.socket | None:
        """The same as `Calling.go_on`."""
        if raw is self.listener:
            caller = tuned(raw.accept()[0])
            if len(self.callers) == MOST_CALLERS:
                oldest = next(iter(self.callers))
                del self.callers[oldest]
                oldest.close()
            self.callers[caller] = b""
            return None
        try:
            shown = self.callers[raw] + _some(raw, HALF_BYTES - len(self.callers[raw]))
        except BlockingIOError:
            raise
        except OSError:
            del self.callers[raw]
            raw.close()
            return None
        self.callers[raw] = shown
        if len(shown) < HALF_BYTES:
            return None
        del self.callers[raw]
        half = self.secret[HALF_BYTES : 2 * HALF_BYTES]
        if not hmac.compare_digest(shown, self.secret[:HALF_BYTES]) or raw.send(half) != HALF_BYTES:
            raw.close()
            return None
        return raw

    def seal(self) -> Seal | None:
        """The same as `Calling.seal`."""
        dialing, listening = _keys(self.secret)
        return None if self.cipher is None else Seal(listening, dialing, self.cipher)


Opening = Calling | Listening


def ask_for(near: bool, sealed: bool) -> bytes:
    """What to ask the other end of a link: ``near``: it is on this machine; ``sealed``: the link is encrypted."""
    if sealed:
        return ASK_FAST if fast() else ASK_SEALED
    return ASK_NEAR if near else ASK_FAR


def listen(ask: bytes, host: str) -> tuple[Listening, bytes]:
    """What an ask leads to at an end that is bound to ``host`` (empty for a Unix socket): the offer is its answer.

    Raises OSError where it can't listen.
    """
    sealed = ask in SEALED_ASKS
    cipher = (AEGIS if ask == ASK_FAST and fast() else CHACHA) if sealed else None
    secret = os.urandom(_secret_bytes(sealed))
    if ask == ASK_NEAR and _LINUX:
        name = b"fogconv-" + os.urandom(8).hex().encode()
        listener = sockets.socket(sockets.AF_UNIX)
        place = _NAME + name
        with _closed_on_error(listener):
            listener.bind(b"\0" + name)
            listener.listen(BACKLOG)
    elif (ask == ASK_FAR or sealed) and host:
        every = host in ("::", "0.0.0.0", "*")
        family = sockets.AF_INET6 if ":" in host else sockets.AF_INET
        dual = every and family == sockets.AF_INET6 and sockets.has_dualstack_ipv6()
        place_of = ("" if every else host, 0)
        listener = sockets.create_server(place_of, family=family, backlog=BACKLOG, dualstack_ipv6=dual)
        kind = _AEGIS_PORT if cipher == AEGIS else _PORT
        place = kind + int(listener.getsockname()[1]).to_bytes(2, "big")
    else:
        raise OSError("this end can't listen where that one could dial")
    listener.setblocking(False)
    return Listening(listener, secret, time.monotonic() + OPEN_S, cipher), _OFFER + secret + place


def dial(offer: bytes, ask: bytes, host: str) -> Calling:
    """What an offer of the end that is reached at ``host`` leads to. Raises OSError, ValueError for what is no answer to the
    ask."""
    sealed = ask in SEALED_ASKS
    start = len(_OFFER)
    end = start + _secret_bytes(sealed)
    secret, kind, place = offer[start:end], offer[end : end + 1], offer[end + 1 :]
    if kind == _NAME and ask == ASK_NEAR and _LINUX:
        raw = sockets.socket(sockets.AF_UNIX)
        target: object = b"\0" + place
    elif (kind == _PORT or (kind == _AEGIS_PORT and ask == ASK_FAST)) and ask != ASK_NEAR and len(place) == 2:
        number = int.from_bytes(place, "big")
        family, _, _, _, target = sockets.getaddrinfo(host, number, type=sockets.SOCK_STREAM, flags=sockets.AI_NUMERICHOST)[
            0
        ]
        raw = sockets.socket(family)
    else:
        raise ValueError(f"an offer of {len(offer)} bytes that does not fit the ask")
    with _closed_on_error(raw):
        tuned(raw)
        with contextlib.suppress(BlockingIOError):
            raw.connect(target)  # type: ignore[arg-type]
    return Calling(raw, secret, (AEGIS if kind == _AEGIS_PORT else CHACHA) if sealed else None)


def _secret_bytes(sealed: bool) -> int:
    return 2 * HALF_BYTES + (2 * KEY_BYTES if sealed else 0)


def _keys(secret: bytes) -> tuple[bytes, bytes]:
    """Of what the dialing end sends, and of what the listening one sends."""
    return secret[2 * HALF_BYTES :][:KEY_BYTES], secret[2 * HALF_BYTES + KEY_BYTES :]


def _some(raw: sockets.socket, most: int) -> bytes:
    """The next bytes. Raises OSError at the end."""
    found = raw.recv(most)
    if not found:
        raise ConnectionAbortedError("it was closed")
    return found


@contextlib.contextmanager
def _closed_on_error(raw: sockets.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        raw.close()
        raise
