"""A worker at ipc://PATH: for its owner only, on no other's file, and gone at its end."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fogconv.cluster.transport.zeromq.endpoint import ZeromqEndpoint
from fogconv.errors import ConnectError, InputError
from tests.cluster.launch import ROOT, environment
from tests.cluster.transport.contract import echoing, messages_without_payload_arrive

pytestmark = pytest.mark.alone


@pytest.fixture(params=[0o000, 0o022, 0o777])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_the_socket_is_for_its_owner_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "worker"
    endpoint = ZeromqEndpoint(f"ipc://{path}")
    try:
        mode = path.lstat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    finally:
        endpoint.close()


def test_the_socket_is_gone_after_the_end(tmp_path: Path) -> None:
    path = tmp_path / "worker"
    ZeromqEndpoint(f"ipc://{path}").close()
    assert not path.exists()


@pytest.mark.parametrize("kind", ["file", "empty", "folder", "link", "dangling", "pipe"])
def test_what_is_no_socket_stays(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "worker"
    if kind in ("file", "empty"):
        path.write_text("precious" if kind == "file" else "")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "elsewhere")
        if kind == "link":
            (tmp_path / "elsewhere").write_text("precious")
    before = path.lstat()
    with pytest.raises(ConnectError, match="which stays"):
        ZeromqEndpoint(f"ipc://{path}")
    assert path.lstat().st_ino == before.st_ino
    if kind in ("file", "link"):
        assert path.read_text() == "precious"
    assert kind != "dangling" or not (tmp_path / "elsewhere").exists()


def test_a_socket_that_a_process_listens_on_stays(tmp_path: Path) -> None:
    path = tmp_path / "worker"
    first = ZeromqEndpoint(f"ipc://{path}")
    try:
        with pytest.raises(ConnectError, match="in use"):
            ZeromqEndpoint(f"ipc://{path}")
        with socket.socket(socket.AF_UNIX) as plain:
            plain.connect(str(path))
    finally:
        first.close()


def test_a_socket_that_was_left_behind_is_replaced_and_serves(tmp_path: Path) -> None:
    path = tmp_path / "worker"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    assert path.exists()
    there, here = ZeromqEndpoint(f"ipc://{path}"), ZeromqEndpoint()
    with echoing(there):
        for _ in range(2):  # a socket that is handed to ZeroMQ takes more than one connection
            messages_without_payload_arrive(here, here.connect(f"ipc://{path}"))
        here.close()
    assert not path.exists()


def test_the_end_removes_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "worker"
    endpoint = ZeromqEndpoint(f"ipc://{path}")
    path.unlink()
    path.write_text("precious")
    endpoint.close()
    assert path.read_text() == "precious"


@pytest.mark.parametrize("address", ["ipc://@fogconv-test", "ipc://*"])
def test_abstract_names_are_refused(address: str) -> None:
    with pytest.raises(InputError):
        ZeromqEndpoint(address)
    here = ZeromqEndpoint()
    try:
        with pytest.raises(ConnectError):
            here.connect(address)
    finally:
        here.close()


@pytest.mark.parametrize(
    "bind", ["inproc://x", "tcp://127.0.0.1", "tcp://*", "tcp://*:70000", "tcp://a b:1", "ipc://@x", "x"]
)
def test_a_worker_process_says_one_sentence_about_a_bad_address(bind: str) -> None:
    command = [sys.executable, "-m", "fogconv", "worker", "--bind", bind]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("fogconv worker: ")
