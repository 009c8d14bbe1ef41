"""Many workers: the limits are raised, or named before anything is opened."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import zmq

from fogconv.cluster.connect import addresses_of
from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from tests.cluster.launch import ROOT, environment

pytestmark = pytest.mark.alone

MANY = 600


class ManyWorkers:
    """Sockets of one thread that welcome a master and answer its pings, as so many workers would."""

    def __init__(self, count: int) -> None:
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, count + 10)
        self._sockets = [self._context.socket(zmq.ROUTER) for _ in range(count)]
        self.ports = [raw.bind_to_random_port("tcp://127.0.0.1") for raw in self._sockets]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        poller = zmq.Poller()
        for raw in self._sockets:
            poller.register(raw, zmq.POLLIN)
        while not self._over.is_set():
            for raw, _ in poller.poll(100):
                peer, *frames = raw.recv_multipart()
                if frames == [b""]:
                    continue
                message, _ = codec.decode(frames)
                if isinstance(message, m.Hello):
                    answer = codec.encode(m.Welcome(message.rank, "host", 1, 1, 0, 1, "isa", "software", m.Machine(), ""))
                elif isinstance(message, m.Ping):
                    answer = codec.encode(m.Pong(message.request, 0, 0), b"")
                else:
                    continue
                raw.send_multipart([peer, b"".join(answer)])

    def close(self) -> None:
        self._over.set()
        self._thread.join(60.0)
        for raw in self._sockets:
            raw.close(0)
        self._context.term()


OPEN = """
import resource, sys
from pathlib import Path
from fogconv.cluster.connect import connect
from fogconv.errors import FogconvError
resource.setrlimit(resource.RLIMIT_NOFILE, (256, int(sys.argv[2])))
try:
    with connect(Path(sys.argv[1]), connect_timeout_s=60.0) as session:
        print(len(session.workers))
except FogconvError as error:
    print(f"{type(error).__name__}: {error}")
    sys.exit(error.exit_code)
"""


def open_all(hostfile: Path, most_files: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", OPEN, str(hostfile), str(most_files)]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120, check=False)


def test_six_hundred_workers_of_one_hostfile_join(tmp_path: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip(f"the system allows {hard} open files only")
    workers = ManyWorkers(MANY)
    try:
        hostfile = tmp_path / "hosts"
        hostfile.write_text("".join(f"#fogconv port={port}\n127.0.0.1\n" for port in workers.ports))
        assert len(addresses_of(hostfile)) == MANY
        done = open_all(hostfile, 4096)
        assert done.stdout == f"{MANY}\n", done.stdout[-1000:] + done.stderr[-1000:]
    finally:
        workers.close()


def test_a_limit_that_is_too_low_is_named_before(tmp_path: Path) -> None:
    hostfile = tmp_path / "hosts"
    hostfile.write_text(f"127.0.0.1:{MANY}\n")
    done = open_all(hostfile, 1024)
    assert done.returncode == 2
    assert done.stdout == (
        "InputError: 600 workers need 3064 open files, and this process may have 1024: raise the limit (ulimit -n 3064), "
        "or name at most 192 workers\n"
    )
