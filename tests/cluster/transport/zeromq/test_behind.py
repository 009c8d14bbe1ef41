"""What is sent behind other messages comes whole; they overtake it, and only a few of its parts are on their way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.transport.endpoint import Peer
from fogconv.cluster.transport.zeromq.chunking import BEHIND_BYTES, FEWEST, LATE_S, MOST, SOON_S, Assembly, Pace, cut_behind
from fogconv.cluster.transport.zeromq.endpoint import ZeromqEndpoint
from tests.cluster.transport.contract import arrival, attached, echoing

pytestmark = pytest.mark.alone

SIZES = (1, BEHIND_BYTES - 1, BEHIND_BYTES, BEHIND_BYTES + 1, 5_000_000)
Ends = tuple[ZeromqEndpoint, Peer]


@pytest.fixture(params=["tcp", "ipc"])
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ends]:
    """Without shared memory, as between two machines."""
    address = "tcp://127.0.0.1:*" if request.param == "tcp" else f"ipc://{tmp_path}/worker"
    there = ZeromqEndpoint(address, shared=False)
    here = ZeromqEndpoint(shared=False)
    with echoing(there):
        yield here, attached(here, there.address)
        here.close()


def payload(size: int) -> bytes:
    return np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()


def test_it_comes_whole_and_in_its_own_order(ends: Ends) -> None:
    here, peer = ends
    for number, size in enumerate(SIZES, start=1):
        here.send(peer, codec.encode(m.Data(number, 1), payload(size)), behind=True)
    for number, size in enumerate(SIZES, start=1):
        assert arrival(here) == (m.Data(number, 1), [payload(size)])


def test_other_messages_overtake_it(ends: Ends) -> None:
    """Short ones, and long ones in parts of their own, which come between its parts."""
    here, peer = ends
    here.send(peer, codec.encode(m.Data(1, 1), payload(SIZES[-1])), behind=True)
    for number, size in enumerate((0, 300_000, 2_000_000), start=2):
        here.send(peer, codec.encode(m.Data(number, 1), payload(size)))
    found = [arrival(here) for _ in range(4)]
    assert [message.run for message, _ in found if isinstance(message, m.Data)] == [2, 3, 4, 1]
    assert [bytes(came[0]) for _, came in found] == [payload(size) for size in (0, 300_000, 2_000_000, SIZES[-1])]


def test_what_is_behind_goes_when_the_link_opens_again(ends: Ends) -> None:
    here, peer = ends
    here.hold(peer)
    here.send(peer, codec.encode(m.Data(1, 1), payload(SIZES[-1])), behind=True)
    assert here.receive(0.2) is None
    here.trust(peer)
    assert arrival(here) == (m.Data(1, 1), [payload(SIZES[-1])])


def test_its_pace_follows_the_link() -> None:
    pace, now = Pace(), 0.0
    for _ in range(2 * MOST):
        pace.sent(now)
        now += SOON_S / 2
        pace.came(now)
    assert pace.allowed == MOST
    for _ in range(2 * MOST):
        pace.sent(now)
        now += 2 * LATE_S
        pace.came(now)
    assert pace.allowed == FEWEST
    pace.came(now)  # an answer to nothing
    assert not pace.flying
    for _ in range(FEWEST):
        assert pace.free
        pace.sent(now)
    assert not pace.free


def test_its_parts_are_refused_where_there_is_no_room() -> None:
    parts = cut_behind(codec.encode(m.Data(1, 1), payload(SIZES[-1])))
    assembly = Assembly(1 << 30, lambda nbytes: False, BEHIND_BYTES)
    assert [assembly.add("peer", part[1:]) for part in parts] == [[parts[0][1]], *[None] * (len(parts) - 1)]
