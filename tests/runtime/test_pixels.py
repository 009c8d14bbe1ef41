"""The picture is sent as bytes where it had 8 bits: same answer to the bit, a quarter of the bytes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from fogconv.cluster.executor.executable import Executable
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.session.session import Session
from fogconv.cluster.transport.inproc import Hub
from fogconv.cluster.worker.server import Worker
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.steps import Pixels, Send
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.engine import Engine
from fogconv.runtime.run_options import RunOptions
from fogconv.zoo.preprocessing import Preprocessing
from tests.chains import chain

SIDE = 32
HOW = Preprocessing((SIDE, SIDE), SIDE)
PIXELS = Pixels(HOW.mean, HOW.std)


class Recording(Hub):
    """Keeps the size of every frame that the master sends to a worker."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def _route(self, origin: str, to: str, frames: Sequence[Frame]) -> None:
        if origin == "master":
            self.sizes += [len(frame) for frame in frames]
        super()._route(origin, to, frames)


@contextmanager
def session_of(hub: Recording, workers: int = 2) -> Iterator[Session]:
    names = [f"worker/{number}" for number in range(1, workers + 1)]
    running = [Worker(hub.endpoint(name), build=Executable) for name in names]
    threads = [threading.Thread(target=worker.serve, daemon=True) for worker in running]
    for thread in threads:
        thread.start()
    session = Session(hub.endpoint("master"), names, timeout_s=60.0)
    try:
        yield session
    finally:
        session.close()
        for worker, thread in zip(running, threads, strict=True):
            worker.stop()
            thread.join(60.0)


def slow_link(ranks: int) -> Topology:
    found = Topology.uniform(ranks, 1e9, 1e7, 1e-5, copy_s_per_byte=1e-11, step_s=1e-7)
    for rank in found.workers:
        found = found.replace_device(rank, found.devices[rank].scaled(50.0))
    return found


def graph() -> LayerGraph:
    found = chain(3, 16, 32, 8, size=SIDE)
    rng = np.random.default_rng(3)
    for array in found.weights.values():
        array[...] = rng.standard_normal(array.shape) / 10
    return found


@pytest.mark.parametrize("scheme", ["offload", "rows"])
def test_an_8_bit_picture_is_sent_as_bytes_and_others_are_not(scheme: str) -> None:
    photo = HOW(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))[None]
    noise = np.random.default_rng(1).standard_normal(photo.shape).astype(np.float32)
    hub = Recording()
    with session_of(hub) as session:
        answers = {}
        for pixels in (None, PIXELS):
            options = PlanOptions(scheme, pixels=pixels)
            engine = Engine(graph(), session, slow_link(3), options, RunOptions(adapt=False))
            assert any(isinstance(step, Send) and step.pixels is not None for step in engine.programs[0].steps) == bool(
                pixels
            )
            for name, x in (("photo", photo), ("noise", noise)):
                hub.sizes.clear()
                answers[name, bool(pixels)] = engine.run(x).output, max(hub.sizes)
            engine.close()
    for name in ("photo", "noise"):
        assert np.array_equal(answers[name, False][0], answers[name, True][0])
    assert answers["photo", False][1] == 4 * answers["photo", True][1]
    assert answers["noise", False][1] == answers["noise", True][1]
