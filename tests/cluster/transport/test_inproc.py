"""Transport within a process: what the contract of all transports does not say."""

from __future__ import annotations

import threading

from fogconv.cluster.transport.inproc import Hub


def test_the_shortest_wait_ends() -> None:
    """With a SimpleQueue one of some ten thousand such waits never ended."""
    endpoint = Hub().endpoint("inproc://worker/1")

    def waits() -> None:
        for _ in range(40_000):
            endpoint.wake()
            assert endpoint.receive(1) is None
            assert endpoint.receive(1e-6) is None

    waiting = threading.Thread(target=waits, daemon=True)
    waiting.start()
    waiting.join(60)
    assert not waiting.is_alive()
