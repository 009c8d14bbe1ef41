"""Authentication: ZeroMQ asks, in pyzmq's thread, whether a client with this key may connect."""

from __future__ import annotations

import zmq

# Only used with keys, and imported then: asyncio costs half of this module's import time.
from zmq.auth.thread import ThreadAuthenticator


class Authentication:
    """Runs from now on, until `stop`. ``masters``: the public keys of those that may always connect."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], masters: frozenset[str]) -> None:
        self.admitted: frozenset[str] = frozenset()
        """The keys of others that may connect now."""
        self._masters = masters
        self._thread = ThreadAuthenticator(context)
        self._thread.start()
        self._thread.configure_curve_callback(credentials_provider=self)

    def callback(self, domain: str, key: bytes) -> bool:
        """pyzmq's authenticator calls this for every client."""
        return key.decode() in self._masters or key.decode() in self.admitted

    def stop(self) -> None:
        self._thread.stop()
