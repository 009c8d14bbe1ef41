"""Four masters at one worker at once: one is served, the others are refused in one sentence, and it is not disturbed."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fogconv.cluster.connect import connect
from fogconv.cluster.session.session import Session
from fogconv.errors import RefusedError
from tests.cluster.launch import free_port, process, wait_until_listening
from tests.cluster.programs import fake_local, ring

pytestmark = pytest.mark.alone

MASTERS = 4
X = np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1)


def test_of_four_masters_at_once_one_is_served_and_then_the_next() -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    begin = threading.Barrier(MASTERS)
    served: list[str] = []
    refusals: list[str] = []

    def open_session(name: str) -> Session | None:
        try:
            return connect([address], local=fake_local, name=name, connect_timeout_s=60.0, timeout_s=60.0)
        except RefusedError as error:
            refusals.append(str(error))
            return None

    def master(number: int) -> None:
        """Asks until it is served; then it runs, and all that the others do meanwhile changes nothing."""
        name = f"master {number}"
        begin.wait(60.0)
        while (session := open_session(name)) is None:
            pass
        with session:
            served.append(name)
            loaded = session.load(*ring([1], 2))
            for _ in range(20):
                np.testing.assert_array_equal(session.run(loaded, [X]).outputs[0], X)
            assert served[-1] == name
            # The others are asking all the time; who is served last is alone.
            seen = len(refusals)
            while len(served) < MASTERS and len(refusals) < seen + MASTERS:
                np.testing.assert_array_equal(session.run(loaded, [X]).outputs[0], X)
            assert not session.lost

    with process(sys.executable, "-m", "tests.cluster.fake_worker", address):
        wait_until_listening(int(address.rpartition(":")[2]))
        with ThreadPoolExecutor(MASTERS) as pool:
            for done in [pool.submit(master, number) for number in range(MASTERS)]:
                done.result(120.0)
    assert Counter(served) == Counter(f"master {number}" for number in range(MASTERS))
    assert refusals
    for refusal in refusals:
        assert refusal.startswith(f"worker 1 at {address} refused: this worker is serving another master (master ")
        assert "\n" not in refusal
