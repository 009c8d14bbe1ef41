"""FuzzLoad: malformed messages against a worker and against a master, while both serve an honest session.

The worker is attacked by ZeroMQ peers and plain TCP connections. The master is attacked by a worker that joins correctly
and then sends malformed messages, again each time it rejoins.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil
import zmq

from bench.faults.campaign import TOLERANCE, Master
from bench.faults.malformed import Message, half_open, nonsense
from bench.faults.places import Loopback
from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.worker.process import TRIM_S
from fogconv.errors import ClusterError, WireError

BURST = 500
"""Messages of one peer before it disconnects and another one connects."""
HALF_OPEN = 2000


@dataclass(frozen=True)
class FuzzLoad:
    """``crashes``: processes that ended, and honest inferences that failed or were wrong. Megabytes are resident growth."""

    sent: int
    crashes: int
    growth_mb: float
    worker_growth_mb: float
    master_growth_mb: float
    half_open: int
    inferences: int


class FalseWorker:
    """A worker that answers Hello and Ping correctly, and sends malformed messages otherwise."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, -1)
        self.address = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self.sent = 0
        self.goal = 0
        self.replays: list[Message] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join(10.0)
        self._socket.close()
        self._context.term()

    def _serve(self) -> None:
        while not self._over.is_set():
            if not self._socket.poll(50):
                continue
            peer, *frames = self._socket.recv_multipart()
            if len(self.replays) < 200:
                self.replays.append(frames)
            with suppress(WireError, ValueError, IndexError):
                message, payloads = codec.decode(frames)
                if isinstance(message, m.Hello):
                    self._say(peer, m.Welcome(message.rank, "false", 1, 1, 0, 0, "none", "0", m.Machine(), ""))
                elif isinstance(message, m.Ping):
                    self._say(peer, m.Pong(message.request, 1, 1), bytes(payloads[0]) if message.echo else b"")
                elif isinstance(message, m.Measure):
                    seconds = (1e-3,) * (len(message.specs) + len(message.maps))
                    self._say(peer, m.Measured(message.request, seconds, 1e9, seconds, 0.0))
                elif isinstance(message, m.Load):
                    self._rage(peer)

    def _rage(self, peer: bytes) -> None:
        for _ in range(min(BURST, self.goal - self.sent)):
            self._socket.send_multipart([peer, *nonsense(self._random, replays=self.replays)])
            self.sent += 1
        # The last message is one that no master accepts, so that it drops this worker and asks it again.
        self._socket.send_multipart([peer, b"nonsense"])

    def _say(self, peer: bytes, message: m.AnyMessage, *payloads: bytes) -> None:
        self._socket.send_multipart([peer, *codec.encode(message, *payloads)])


def storm(address: str, count: int, generator: random.Random, replays: list[Message]) -> int:
    """Unknown peers that connect one after the other, send ``BURST`` messages each, and read no answer."""
    context = zmq.Context()
    sent = 0
    try:
        while sent < count:
            stranger = context.socket(zmq.DEALER)
            stranger.setsockopt(zmq.LINGER, 1000)
            stranger.connect(address)
            for _ in range(min(BURST, count - sent)):
                stranger.send_multipart(nonsense(generator, replays=replays))
                sent += 1
            stranger.close()
    finally:
        context.term()
    return sent


def fuzz_load(messages: int, net: str, say: Callable[[str], None], *, half: int = HALF_OPEN, seed: int = 7) -> FuzzLoad:
    """Send half of the messages to a worker, half to a master."""
    generator = random.Random(seed)
    crashes = inferences = 0
    with Loopback(1) as place:
        false = FalseWorker(seed)
        place.addresses.append(false.address)
        master = Master(place, net, "rows")
        worker, boss = (psutil.Process(p.pid) for p in (place.workers[0], master.process))

        def infer() -> bool:
            nonlocal inferences
            inferences += 1
            master.ask()
            answer = master.receive()
            right: bool = answer.get("error", 1.0) <= TOLERANCE
            if not right:
                say(f"an honest inference failed: {answer}")
            return right

        try:
            address = ("127.0.0.1", place.ports[0])
            # Warm up the caches of all parsers and allocators, so that they do not count as growth.
            false.goal = BURST * 4
            storm(f"tcp://127.0.0.1:{address[1]}", min(messages, BURST * 10), generator, false.replays)
            for _ in range(20):
                crashes += not infer()
                time.sleep(0.05)
            before = worker.memory_info().rss, boss.memory_info().rss
            false.goal = false.sent + messages // 2
            sent = false.sent
            connections = half_open(address, half, generator)
            say(f"{len(connections)} half-open connections")
            stormed = 0
            besieger = threading.Thread(
                target=lambda: storm(f"tcp://127.0.0.1:{address[1]}", messages - messages // 2, generator, false.replays)
            )
            besieger.start()
            deadline = time.monotonic() + 600.0
            while (besieger.is_alive() or false.sent < false.goal) and time.monotonic() < deadline:
                crashes += not infer()
                time.sleep(0.05)
            besieger.join(60.0)
            stormed = messages - messages // 2
            sent = stormed + false.sent - sent
            for connection in connections:
                connection.close()
            time.sleep(TRIM_S + 2.0)
            crashes += sum(1 for process in (place.workers[0], master.process) if process.poll() is not None)
            crashes += not infer()
            growth = [(process.memory_info().rss - old) / 1e6 for process, old in zip((worker, boss), before, strict=True)]
        except ClusterError as error:
            say(str(error))
            return FuzzLoad(false.sent, crashes + 1, 0.0, 0.0, 0.0, half, inferences)
        finally:
            master.close()
            false.close()
    return FuzzLoad(sent, crashes, max(growth), growth[0], growth[1], len(connections), inferences)
