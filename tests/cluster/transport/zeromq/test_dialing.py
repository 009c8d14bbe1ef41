"""Links on the way to their connection: names with several numbers, names that hang, links with a long round trip."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
import pytest
import zmq

from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.keys import KeyPair, Keys
from fogconv.cluster.session.session import Session
from fogconv.cluster.transport.endpoint import Arrival, Loss
from fogconv.cluster.transport.resolver import Resolver
from fogconv.cluster.transport.zeromq.dialing import answer_s, heartbeats, heartbeats_of_router
from fogconv.cluster.transport.zeromq.endpoint import ZeromqEndpoint
from fogconv.cluster.worker.server import Worker
from fogconv.errors import ConnectError
from fogconv.hardware.address import parse_address
from tests.cluster.launch import free_port
from tests.cluster.programs import FakeExecutable, fake_local, ring, star
from tests.cluster.proxy import Proxy
from tests.cluster.transport.contract import (
    PATIENCE_S,
    attached,
    echoing,
    messages_keep_their_order,
    messages_without_payload_arrive,
)

pytestmark = pytest.mark.alone

X = np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1)


class Silent:
    """A lookup in which ``silent`` gets no answer, and other names stand for what is given."""

    def __init__(self, **known: Sequence[str]) -> None:
        self.known = known
        self.over = threading.Event()

    def __call__(self, name: str) -> Sequence[str]:
        if name == "silent":
            self.over.wait(60.0)
            raise OSError("the test is over")
        return self.known[name]


@pytest.fixture
def silent() -> Iterator[Silent]:
    made = Silent(worker=("127.0.0.1",), two=("::1", "127.0.0.1"), three=("::1", "127.0.0.2", "127.0.0.1"))
    yield made
    made.over.set()


@pytest.fixture
def there() -> Iterator[ZeromqEndpoint]:
    with echoing(ZeromqEndpoint("tcp://127.0.0.1:*")) as endpoint:
        assert isinstance(endpoint, ZeromqEndpoint)
        yield endpoint


def port_of(endpoint: ZeromqEndpoint) -> int:
    return parse_address(endpoint.address).port or 0


@pytest.mark.parametrize("name", ["worker", "two", "three"])
def test_all_numbers_of_a_name_are_tried_and_the_taken_one_is_logged(
    name: str, silent: Silent, there: ZeromqEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing listens on ::1 and on 127.0.0.2 at this port; what is sent meanwhile waits, and is not lost."""
    here = ZeromqEndpoint(resolver=Resolver(silent))
    try:
        with caplog.at_level(logging.INFO, "fogconv.transport"):
            messages_keep_their_order(here, attached(here, f"tcp://{name}:{port_of(there)}"))
        [line] = [record.message for record in caplog.records if "is reached at" in record.message]
        assert f"tcp://{name}:{port_of(there)} is reached at 127.0.0.1, of {', '.join(silent.known[name])}" == line
    finally:
        here.close()


def test_where_no_number_answers_all_that_were_tried_are_named(silent: Silent) -> None:
    port = free_port()
    here = ZeromqEndpoint(resolver=Resolver(silent))
    with pytest.raises(ConnectError) as failed:
        Session(here, [f"tcp://two:{port}"], connect_timeout_s=4.0)
    assert "::1: " in str(failed.value)
    assert "127.0.0.1: Connection refused" in str(failed.value)


def test_a_worker_that_comes_later_is_reached(silent: Silent) -> None:
    port = free_port()
    here = ZeromqEndpoint(resolver=Resolver(silent))
    peer = here.connect(f"tcp://two:{port}")
    assert here.receive(1.0) is None
    there = ZeromqEndpoint(f"tcp://127.0.0.1:{port}")
    with echoing(there):
        messages_without_payload_arrive(here, peer)
        here.close()


def test_a_name_that_hangs_is_a_loss_and_holds_up_no_heartbeat(silent: Silent, there: ZeromqEndpoint) -> None:
    """More than a heartbeat's time passes meanwhile: the other link has to live through it."""
    here = ZeromqEndpoint(heartbeat_s=0.3, resolver=Resolver(silent, limit_s=1.5))
    try:
        other = here.connect(there.address)
        messages_without_payload_arrive(here, other)
        peer = here.connect("tcp://silent:5555")
        here.send(peer, [b"never"])
        event = here.receive(PATIENCE_S)
        assert isinstance(event, Loss)
        assert event.peer == peer
        assert "'silent' was not resolved within 1.5 s" in event.reason
        messages_without_payload_arrive(here, other)
    finally:
        here.close()


def test_a_session_names_the_name_that_was_not_resolved(silent: Silent, there: ZeromqEndpoint) -> None:
    here = ZeromqEndpoint(resolver=Resolver(silent, limit_s=0.3))
    with pytest.raises(ConnectError, match=r"worker 1 at tcp://silent:5555 did not answer .*'silent' was not resolved"):
        Session(here, ["tcp://silent:5555"], connect_timeout_s=10.0)
    here = ZeromqEndpoint(resolver=Resolver(silent, limit_s=30.0))
    with pytest.raises(ConnectError, match="'silent' is not resolved yet"):
        Session(here, ["tcp://silent:5555"], connect_timeout_s=0.3)


class Serving:
    """Workers on loopback; each may be reached through a proxy of its own."""

    def __init__(self, count: int, resolver: Resolver | None = None) -> None:
        self.endpoints = [ZeromqEndpoint("tcp://127.0.0.1:*", resolver=resolver) for _ in range(count)]
        self.workers = [Worker(endpoint, build=FakeExecutable) for endpoint in self.endpoints]
        self.threads = [threading.Thread(target=worker.serve, daemon=True) for worker in self.workers]
        for thread in self.threads:
            thread.start()

    def close(self) -> None:
        for worker, thread in zip(self.workers, self.threads, strict=True):
            worker.stop()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def test_peers_that_the_master_names_by_a_name_that_hangs_fail_the_run_and_not_the_worker(silent: Silent) -> None:
    """The master knows the number, the workers do not."""
    serving = Serving(2, Resolver(silent, limit_s=0.5))
    ports = [port_of(endpoint) for endpoint in serving.endpoints]
    here = ZeromqEndpoint(resolver=Resolver(lambda name: ("127.0.0.1",)))
    addresses = [f"tcp://silent:{port}" for port in ports]
    try:
        with Session(here, addresses, timeout_s=60.0, local=fake_local) as session:
            np.testing.assert_array_equal(session.run(session.load(*star([1, 2])), [X]).outputs[0], 2 * X + 3)
            loaded = session.load(*ring([1, 2]))
            with pytest.raises(Exception, match=r"'silent' was not resolved|lost its link"):
                session.run(loaded, [X])
            assert session.refresh() == frozenset()
            np.testing.assert_array_equal(session.run(session.load(*star([1, 2])), [X]).outputs[0], 2 * X + 3)
    finally:
        serving.close()


@pytest.mark.parametrize("keys", [False, True])
def test_a_link_with_a_long_round_trip_is_not_cut(keys: bool, caplog: pytest.LogCaptureFixture) -> None:
    """0.5 s each way: a heartbeat's answer takes 1 s, and the heartbeat is 0.5 s at either end."""
    pair, master = KeyPair.generate(), KeyPair.generate()
    there = ZeromqEndpoint(
        "tcp://127.0.0.1:*", heartbeat_s=0.5, keys=Keys(pair, frozenset({master.public})) if keys else None
    )
    here = ZeromqEndpoint(heartbeat_s=0.5, keys=Keys(master) if keys else None)
    try:
        with echoing(there), Proxy(port_of(there), 0.5) as proxy, caplog.at_level(logging.WARNING, "fogconv.transport"):
            peer = here.connect(proxy.address, pair.public if keys else None)
            messages_without_payload_arrive(here, peer)
            connections = proxy.connections
            for _ in range(3):
                assert here.receive(1.0) is None  # no loss, in 6 heartbeats
                messages_without_payload_arrive(here, peer)
            assert proxy.connections == connections
        [line] = [record.message for record in caplog.records if "round trip" in record.message]
        assert line.startswith(f"the round trip to {proxy.address} takes up to ")
        assert "heartbeats wait" in line
    finally:
        here.close()


def test_what_was_sent_before_a_hold_goes_out_when_the_link_opens_and_the_rest_when_it_is_trusted() -> None:
    with closing(ZeromqEndpoint("tcp://127.0.0.1:*")) as worker, closing(ZeromqEndpoint()) as other:
        peer = other.connect(worker.address)
        other.send(peer, codec.encode(m.Attach(bytes(16), 2)))  # before it is connected
        other.hold(peer)
        other.send(peer, codec.encode(m.Bye()))
        arrived = []
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and len(arrived) < 2:
            other.receive(0.05)
            event = worker.receive(0.05)
            if isinstance(event, Arrival):
                arrived.append(type(codec.decode(event.frames)[0]))
                if len(arrived) == 1:
                    assert all(worker.receive(0.05) is None and other.receive(0.05) is None for _ in range(5))
                    other.trust(peer)
    assert arrived == [m.Attach, m.Bye]


def test_a_fast_link_keeps_its_heartbeat(there: ZeromqEndpoint, caplog: pytest.LogCaptureFixture) -> None:
    here = ZeromqEndpoint(heartbeat_s=5.0)
    try:
        with Proxy(port_of(there)) as proxy, caplog.at_level(logging.WARNING, "fogconv.transport"):
            messages_without_payload_arrive(here, here.connect(proxy.address))
            assert proxy.connections == 1
        assert not caplog.records
    finally:
        here.close()


def test_a_cut_link_is_a_loss_and_the_address_can_be_connected_to_again(there: ZeromqEndpoint) -> None:
    here = ZeromqEndpoint()
    try:
        with Proxy(port_of(there)) as proxy:
            peer = here.connect(proxy.address)
            messages_without_payload_arrive(here, peer)
            proxy.cut()
            event = here.receive(PATIENCE_S)
            assert isinstance(event, Loss) and event.peer == peer
            messages_without_payload_arrive(here, here.connect(proxy.address))
    finally:
        here.close()


def test_heartbeats_wait_for_the_round_trip_and_tell_the_other_end() -> None:
    usual = heartbeats(1.0, answer_s(1.0))
    assert usual == {zmq.HEARTBEAT_IVL: 400, zmq.HEARTBEAT_TIMEOUT: 600, zmq.HEARTBEAT_TTL: 1000}
    slow = heartbeats(1.0, answer_s(1.0, 0.9))
    assert slow[zmq.HEARTBEAT_TIMEOUT] == 1800
    assert slow[zmq.HEARTBEAT_TTL] >= slow[zmq.HEARTBEAT_IVL] + 1800
    assert heartbeats_of_router(1.0)[zmq.HEARTBEAT_TIMEOUT] == 5000


def test_ipv6_literals_and_scopes_reach_a_worker() -> None:
    try:
        there = ZeromqEndpoint("tcp://[::1]:*")
    except ConnectError:
        pytest.skip("no IPv6 here")
    here = ZeromqEndpoint()
    with echoing(there):
        for host in ("::1", "0:0:0:0:0:0:0:1"):
            messages_without_payload_arrive(here, here.connect(f"tcp://[{host}]:{port_of(there)}"))
        here.close()


def test_a_worker_on_all_addresses_serves_ipv4_and_ipv6() -> None:
    port = free_port()
    there = ZeromqEndpoint(f"tcp://*:{port}", shared=False)
    here = ZeromqEndpoint()
    with echoing(there):
        messages_without_payload_arrive(here, here.connect(f"tcp://127.0.0.1:{port}"))
        peer = here.connect(f"tcp://[::1]:{port}")
        messages_without_payload_arrive(here, peer)
        here.close()


def test_an_unknown_interface_has_a_diagnosis() -> None:
    here = ZeromqEndpoint()
    try:
        here.connect("tcp://[fe80::1%nosuch0]:5555")
        assert here.diagnose("tcp://[fe80::1%nosuch0]:5555")
    finally:
        here.close()
