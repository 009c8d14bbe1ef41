"""Worker processes among strangers: connections that say nothing, messages that never end, payloads nobody asked for."""

from __future__ import annotations

import contextlib
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest

from bench.hostile.zmtp import Stranger, forget_peak, frame, head, held_bytes, peak_bytes, silent
from fogconv.cluster.connect import connect
from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.session.session import Session
from fogconv.cluster.transport.zeromq.chunking import PART_BYTES
from tests.cluster.launch import free_port, process, wait_until_listening
from tests.cluster.programs import fake_local, ring

pytestmark = pytest.mark.alone

X = np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1)
MOST_GROWTH = 60 << 20
REAL = ("-m", "fogconv.cli.commands.worker")
FEW_DESCRIPTORS = (
    "import resource, runpy, sys; "
    "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)); "
    "sys.argv = ['fake_worker', *sys.argv[1:]]; "
    "runpy.run_module('tests.cluster.fake_worker', run_name='__main__')"
)


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as opened:
        yield opened


def started(stack: contextlib.ExitStack, *command: str) -> tuple[subprocess.Popen[str], str]:
    """A worker process without kernels, and its address."""
    port = free_port()
    child = stack.enter_context(process(sys.executable, *command, f"tcp://127.0.0.1:{port}"))
    wait_until_listening(port)
    return child, f"tcp://127.0.0.1:{port}"


def open_session(stack: contextlib.ExitStack, address: str) -> Session:
    return stack.enter_context(connect(address, local=fake_local, timeout_s=60.0, connect_timeout_s=60.0))


def test_silent_connections_use_up_no_descriptors(stack: contextlib.ExitStack) -> None:
    """A worker that may have 256 answers on while 600 connections are opened, and is there for the next master."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    child, address = started(stack, "-c", FEW_DESCRIPTORS)
    session = open_session(stack, address)
    loaded = session.load(*ring([1]))
    connections = silent(address, 600)
    assert len(connections) == 600
    try:
        for _ in range(3):
            assert session.status()[1].state == "ready"
            np.testing.assert_array_equal(session.run(loaded, [X]).outputs[0], X)
            session.load(*ring([1]))
        session.close()
        _fresh(stack, address)
    finally:
        for connection in connections:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert child.poll() is None


@pytest.mark.parametrize(
    "sent",
    [b"\x01\x00\x06\x00hello", b"\xff" + bytes(7) + b"\x01\x7f" + b"\x01\x05" + b"\x00\x00" + b"\x00\x05hello"],
    ids=["ZMTP 1", "ZMTP 2"],
)
def test_old_versions_of_zeromqs_protocol_end_no_worker(stack: contextlib.ExitStack, sent: bytes) -> None:
    """Nine bytes of anyone ended a worker: of such peers libzmq does not say by which connection a message came."""
    child, address = started(stack, "-m", "tests.cluster.fake_worker")
    host, _, port = address.removeprefix("tcp://").partition(":")
    for _ in range(20):
        peer = stack.enter_context(socket.create_connection((host, int(port)), 5.0))
        peer.sendall(sent)
    _fresh(stack, address)
    assert child.poll() is None


def _fresh(stack: contextlib.ExitStack, address: str) -> Session:
    """A new master is served well."""
    session = open_session(stack, address)
    np.testing.assert_array_equal(session.run(session.load(*ring([1])), [X]).outputs[0], X)
    return session


def test_a_message_that_never_ends_is_cut_off(stack: contextlib.ExitStack) -> None:
    child, address = started(stack, "-m", "tests.cluster.fake_worker")
    session = open_session(stack, address)
    loaded = session.load(*ring([1]))
    before = held_bytes(child.pid)
    forget_peak(child.pid)
    for _ in range(3):
        with Stranger(address) as stranger:
            stranger.flood(frame(bytes(60_000), more=True), 300 << 20)
            assert stranger.closed(10.0)
    np.testing.assert_array_equal(session.run(loaded, [X]).outputs[0], X)
    assert peak_bytes(child.pid) - before < MOST_GROWTH


def test_a_payload_of_a_stranger_is_not_put_together(stack: contextlib.ExitStack) -> None:
    """Five declare 300 MB each, and send them in the parts in which long payloads travel."""
    child, address = started(stack, "-m", "tests.cluster.fake_worker")
    _fresh(stack, address).close()
    before = held_bytes(child.pid)
    forget_peak(child.pid)
    header = codec.encode(m.Data(1, 1), bytes(300 << 20))[0]
    with contextlib.ExitStack() as strangers:
        for _ in range(5):
            stranger = strangers.enter_context(Stranger(address))
            with contextlib.suppress(OSError):
                stranger.say(bytes(header), bytes(PART_BYTES))
            stranger.flood(frame(b"", more=True) + frame(bytes(PART_BYTES)), 300 << 20)
            assert stranger.closed(10.0)
    assert peak_bytes(child.pid) - before < MOST_GROWTH
    _fresh(stack, address)


def test_declared_sizes_reserve_nothing(stack: contextlib.ExitStack) -> None:
    child, address = started(stack, "-m", "tests.cluster.fake_worker")
    _fresh(stack, address).close()
    before = held_bytes(child.pid)
    forget_peak(child.pid)
    with contextlib.ExitStack() as strangers:
        for _ in range(40):
            stranger = strangers.enter_context(Stranger(address))
            with contextlib.suppress(OSError):
                stranger.socket.sendall(head(3 << 20, more=True) + bytes(60_000))
        _fresh(stack, address)
    assert peak_bytes(child.pid) - before < MOST_GROWTH


def test_a_worker_without_keys_says_who_may_use_it(stack: contextlib.ExitStack) -> None:
    for host, said in (("127.0.0.1", "any local user who reaches"), ("0.0.0.0", "--insecure: anybody who reaches")):
        port = free_port()
        child = stack.enter_context(process(sys.executable, "-m", "tests.cluster.fake_worker", f"tcp://{host}:{port}"))
        assert child.stderr is not None
        warning = next(line for line in child.stderr if "may use this worker" in line)
        assert "WARNING" in warning
        assert said in warning


def test_a_process_raises_its_own_limit(stack: contextlib.ExitStack) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 512), hard))
    try:
        child, _ = started(stack, "-m", "tests.cluster.fake_worker")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert resource.prlimit(child.pid, resource.RLIMIT_NOFILE)[0] == min(hard, 1 << 20)


def test_a_message_of_a_peer_that_never_ends_is_cut_off_where_memory_is_short(stack: contextlib.ExitStack) -> None:
    """It is attached, and may send payloads: 3 GB go no further than the limit and what comes between two looks."""
    child, address = started(stack, *REAL, "--memory", "400M", "--bind")
    _, another = started(stack, *REAL, "--bind")
    session = stack.enter_context(connect([address, another], local=fake_local, timeout_s=60.0, connect_timeout_s=60.0))
    with Stranger(address) as peer:
        peer.say(*(bytes(part) for part in codec.encode(m.Attach(session.token, 2))))
        time.sleep(0.3)
        forget_peak(child.pid)
        sent = peer.flood(frame(bytes(60_000), more=True) * 16, 3 << 30)
    assert sent < 3 << 30
    assert peak_bytes(child.pid) < 1200 << 20
    assert session.refresh() == frozenset()
    assert session.status()[1].state == "ready"
    child.terminate()
    _, errors = child.communicate(timeout=60)
    assert "without an end" in errors
