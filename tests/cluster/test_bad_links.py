"""Links that are cut in a load, and that change bytes: a sentence and a recovery, never a hang or a wrong answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from fogconv.cluster.protocol.keys import KeyPair, Keys
from fogconv.cluster.session.session import Session
from fogconv.cluster.transport.zeromq.endpoint import ZeromqEndpoint
from fogconv.cluster.worker.server import Worker
from fogconv.errors import FogconvError
from fogconv.hardware.address import parse_address
from fogconv.ir import steps as ir
from fogconv.ir.arrays import weight_key
from fogconv.ir.program import Program
from tests.cluster.cluster_of import eventually
from tests.cluster.programs import PIECE, FakeExecutable, fake_local
from tests.cluster.proxy import Proxy, unaltered

pytestmark = [pytest.mark.alone, pytest.mark.timeout(120)]

X = np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1)
WEIGHT = np.full((1 << 18,), 2.0**-18, np.float32)
"""1 MB, whose values add up to 1."""
WAIT_S = 3.0


def one_worker() -> tuple[list[Program], dict[str, np.ndarray]]:
    """The worker adds the sum of its weight, 1, to the input."""
    buffers = (ir.Buffer("x", PIECE), ir.Buffer("y", PIECE))
    key = weight_key(WEIGHT)
    master: tuple[ir.AnyStep, ...] = (
        ir.Input(0, 0, 0, PIECE),
        ir.Send(0, 0, PIECE, 1, 1),
        ir.Recv(0, 1, PIECE, 1, 2),
        ir.Output(0, 0, 1, PIECE),
    )
    steps = (ir.Recv(0, 0, PIECE, 0, 1), ir.Copy(0, 0, PIECE, 1), ir.Send(0, 1, PIECE, 0, 2))
    programs = [
        Program(0, 2, 1, ("layer",), buffers, master, {}),
        Program(1, 2, 1, ("layer",), buffers, steps, {key: WEIGHT.shape}),
    ]
    return programs, {key: WEIGHT}


class Rig:
    """A worker, a proxy before it, and a session through the proxy; with keys or without."""

    def __init__(self, secure: bool) -> None:
        self.secure = secure
        pair, master = KeyPair.generate(), KeyPair.generate()
        there = ZeromqEndpoint("tcp://127.0.0.1:*", keys=Keys(pair, frozenset({master.public})) if secure else None)
        masters = frozenset({master.public}) if secure else None
        self.worker = Worker(there, build=FakeExecutable, masters=masters, keep_weights=False)
        self.thread = threading.Thread(target=self.worker.serve, daemon=True)
        self.thread.start()
        self.proxy = Proxy(parse_address(there.address).port or 0)
        here = ZeromqEndpoint(keys=Keys(master) if secure else None, shared=False)
        key = pair.public if secure else None
        self.session = Session(here, [self.proxy.address], keys=[key], timeout_s=WAIT_S, local=fake_local)

    def infer(self) -> None:
        """Load and run; the answer has to be right."""
        loaded = self.session.load(*one_worker())
        np.testing.assert_allclose(self.session.run(loaded, [X]).outputs[0], X + 1, rtol=1e-6)

    def recover(self) -> None:
        """As an engine would: take the worker back, and infer again."""

        def back() -> bool:
            self.session.rejoin(1.0)
            return not self.session.lost

        eventually(back, 30.0)
        self.infer()

    def close(self) -> None:
        self.session.close()
        self.proxy.close()
        self.worker.stop()
        self.thread.join(60.0)
        assert not self.thread.is_alive()


@pytest.fixture(params=[False, True], ids=["plain", "curve"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = Rig(request.param)
    yield made
    made.close()


@pytest.mark.parametrize("at", [1, 3000, 300_000, 900_000])
def test_a_link_that_is_cut_in_the_middle_of_a_load_is_a_sentence_and_comes_back(rig: Rig, at: int) -> None:
    begin = rig.proxy.passed[0]
    cut = threading.Event()

    def cutting(before: int, chunk: bytes) -> bytes:
        if not cut.is_set() and rig.proxy.passed[0] + len(chunk) - begin >= at:
            cut.set()
            rig.proxy.cut()
        return chunk

    rig.proxy.to_worker = cutting
    with pytest.raises(FogconvError):
        rig.infer()
    assert cut.is_set()
    rig.recover()


@pytest.mark.parametrize("at", [0, 1, 5, 8, 60, 500, 200_000, 1_000_000])
@pytest.mark.parametrize("towards", ["worker", "master"])
def test_a_link_that_changes_a_byte_of_a_load_gives_no_wrong_answer(rig: Rig, towards: str, at: int) -> None:
    """What is loaded is checked by its content; encryption checks every byte. Without it a changed length (1, 8) leaves an
    end waiting for the rest of a message: silence, then, ends it."""
    flipped = threading.Event()
    direction = towards == "master"
    begin = rig.proxy.passed[direction]

    def flipping(before: int, chunk: bytes) -> bytes:
        place = begin + at - rig.proxy.passed[direction]
        if flipped.is_set() or not 0 <= place < len(chunk):
            return chunk
        flipped.set()
        return chunk[:place] + bytes([chunk[place] ^ 0x40]) + chunk[place + 1 :]

    if direction:
        rig.proxy.to_master = flipping
    else:
        rig.proxy.to_worker = flipping
    try:
        loaded = rig.session.load(*one_worker())
        if not rig.secure:  # without encryption what is sent in a run has TCP's checksums only
            rig.proxy.to_worker = rig.proxy.to_master = unaltered
        np.testing.assert_allclose(rig.session.run(loaded, [X]).outputs[0], X + 1, rtol=1e-6)
    except FogconvError as error:
        assert str(error)
        rig.recover()
