"""Transports: round trips, throughput, and the engine's cost for a step that does nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bench.overhead import PIECE, cluster, star_programs
from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.session.session import Session
from fogconv.cluster.transport.endpoint import Arrival, Endpoint, Peer
from fogconv.cluster.transport.inproc import Hub
from fogconv.cluster.transport.zeromq.endpoint import ZeromqEndpoint

LAYERS = 20
WORKERS = 4


def echo(endpoint: Endpoint) -> None:
    while True:
        event = endpoint.receive(60.0)
        if isinstance(event, Arrival):
            message, payloads = codec.decode(event.frames)
            if isinstance(message, m.Bye):
                endpoint.close()
                return
            endpoint.send(event.peer, codec.encode(message, *payloads))


@pytest.fixture(params=["inproc", "zmq"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[Endpoint, Peer]]:
    here: Endpoint
    there: Endpoint
    if request.param == "inproc":
        hub = Hub()
        here, there, address = hub.endpoint("here"), hub.endpoint("there"), "there"
    else:
        listening = ZeromqEndpoint("tcp://127.0.0.1:*")
        here, there, address = ZeromqEndpoint(), listening, listening.address
    server = threading.Thread(target=echo, args=(there,), daemon=True)
    server.start()
    peer = here.connect(address)
    yield here, peer
    here.send(peer, codec.encode(m.Bye()))
    server.join(10.0)
    here.close()


@pytest.mark.parametrize("size", [64, 1 << 20, 8 << 20])
def test_round_trip(benchmark: Any, ends: tuple[Endpoint, Peer], size: int) -> None:
    """``size`` bytes there and back; 2 × size ÷ the time is the throughput."""
    endpoint, peer = ends
    frames = codec.encode(m.Data(1, 1), np.zeros(size, np.uint8).data)

    def exchange() -> None:
        endpoint.send(peer, frames)
        while endpoint.receive(10.0) is None:
            pass

    exchange()
    benchmark.extra_info["bytes"] = size
    benchmark(exchange)


@pytest.fixture(scope="module", params=["inproc", "zmq"])
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    with cluster(request.param, WORKERS) as opened:
        yield opened


def test_a_layer_without_work(benchmark: Any, session: Session) -> None:
    """20 layers over 4 workers, 64 bytes each way; the time is that of all layers."""
    loaded = session.load(star_programs(LAYERS, WORKERS), {})
    x = np.ones((1, *PIECE.shape), np.float32)
    session.run(loaded, [x])
    benchmark.extra_info["layers"] = LAYERS
    benchmark(lambda: session.run(loaded, [x]))
    session.unload(loaded)


def test_encode_and_decode(benchmark: Any) -> None:
    payload = bytes(64)
    benchmark(lambda: codec.decode(codec.encode(m.Data(7, 9), payload)))
