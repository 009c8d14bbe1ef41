"""Keys: files that only their owner reads, and links that strangers do not get."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fogconv.cluster.connect import connect
from fogconv.cluster.protocol.keys import KeyPair, Keys, is_local, keys_for, read_keys, write_keys
from fogconv.cluster.session.session import Session
from fogconv.cluster.transport.endpoint import Endpoint
from fogconv.cluster.transport.zeromq.endpoint import ZeromqEndpoint
from fogconv.errors import ConnectError, FogconvError, InputError
from tests.cluster.cluster_of import Cluster, FakeExecutable, eventually
from tests.cluster.programs import fake_local, ring
from tests.strangers import give_away

pytestmark = pytest.mark.alone

X = np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1)


class SecureCluster(Cluster):
    """Three workers with a pair each, all of which list one master."""

    def __init__(self, count: int) -> None:
        self.master = KeyPair.generate()
        self.pairs: list[KeyPair] = []
        super().__init__(count, FakeExecutable, masters=frozenset({self.master.public}))

    def worker_endpoint(self, name: str) -> tuple[Endpoint, str]:
        self.pairs.append(KeyPair.generate())
        endpoint = ZeromqEndpoint("tcp://127.0.0.1:*", keys=Keys(self.pairs[-1], frozenset({self.master.public})))
        return endpoint, endpoint.address

    def listed(self) -> dict[str, str]:
        return {
            address.removeprefix("tcp://"): pair.public for address, pair in zip(self.addresses, self.pairs, strict=True)
        }

    def open(self, keys: Keys | None, timeout_s: float = 5.0) -> Session:
        session = connect(self.addresses, keys=keys, local=fake_local, connect_timeout_s=timeout_s)
        self.sessions.append(session)
        return session


@pytest.fixture
def secure() -> Iterator[SecureCluster]:
    cluster = SecureCluster(3)
    yield cluster
    cluster.close()


def test_a_listed_master_and_its_workers_talk_encrypted(secure: SecureCluster) -> None:
    session = secure.open(Keys(secure.master, workers=secure.listed()))
    for _ in range(3):
        np.testing.assert_array_equal(session.run(session.load(*ring([1, 2, 3], 3)), [X]).outputs[0], X)


def test_masters_come_and_go(secure: SecureCluster) -> None:
    for _ in range(3):
        with secure.open(Keys(secure.master, workers=secure.listed())) as session:
            np.testing.assert_array_equal(session.run(session.load(*ring([1, 2, 3])), [X]).outputs[0], X)


def test_a_master_that_is_not_listed_gets_nothing(secure: SecureCluster, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(ConnectError, match="keys do not fit"):
        secure.open(Keys(KeyPair.generate(), workers=secure.listed()))
    eventually(lambda: any("refused an unknown peer" in record.message for record in caplog.records))
    assert all(worker.life.stage.value == "joining" for worker in secure.workers)


def test_a_master_without_keys_gets_nothing(secure: SecureCluster) -> None:
    with pytest.raises(ConnectError, match="did not answer"):
        secure.open(None, timeout_s=0.7)
    assert all(worker.life.stage.value == "joining" for worker in secure.workers)


def test_a_worker_with_another_key_than_the_one_listed_is_not_trusted(secure: SecureCluster) -> None:
    listed = {**secure.listed(), secure.addresses[1].removeprefix("tcp://"): KeyPair.generate().public}
    with pytest.raises(ConnectError, match=f"worker 2 at {secure.addresses[1]}"):
        secure.open(Keys(secure.master, workers=listed), timeout_s=3.0)


def test_a_worker_is_no_master(secure: SecureCluster) -> None:
    """A peer that the master named may send data, but not open a session of its own."""
    session = secure.open(Keys(secure.master, workers=secure.listed()))
    session.run(session.load(*ring([1, 2, 3])), [X])
    with pytest.raises(FogconvError, match="not listed among this worker's masters"):
        secure.open(Keys(secure.pairs[0], workers=secure.listed()))
    np.testing.assert_array_equal(session.run(session.load(*ring([1, 2, 3])), [X]).outputs[0], X)


def test_written_keys_are_for_their_owner_only_and_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    pair = write_keys(folder)
    assert stat.S_IMODE((folder / "key").stat().st_mode) == 0o600
    assert pair.secret not in (folder / "key.pub").read_text()
    (folder / "masters").write_text(f"# the camera's master\n{pair.public}\n")
    (folder / "workers").write_text(f"pi1 {pair.public}\npi2:6000 {pair.public}\n")
    keys = read_keys(folder)
    assert keys.own == pair
    assert keys.masters == {pair.public}
    assert keys.of_worker("tcp://pi1:5555") == pair.public
    assert keys.of_worker("tcp://pi2:6000") == pair.public
    with pytest.raises(InputError, match="no key is listed for the worker at tcp://pi2:6001"):
        keys.of_worker("tcp://pi2:6001")
    with pytest.raises(InputError, match="exists already"):
        write_keys(folder)
    assert pair.secret not in repr(keys)


def test_bad_key_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fogconv keygen"):
        read_keys(tmp_path)
    pair = write_keys(tmp_path)
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        read_keys(tmp_path)
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "masters").write_text(f"{pair.public}\nnot a key\n")
    with pytest.raises(InputError, match="masters, line 2"):
        read_keys(tmp_path)
    (tmp_path / "masters").unlink()
    (tmp_path / "workers").write_text("pi1\n")
    with pytest.raises(InputError, match="workers, line 1"):
        read_keys(tmp_path)
    (tmp_path / "workers").unlink()
    (tmp_path / "key").write_text(f"{pair.public}\n{KeyPair.generate().secret}\n")
    with pytest.raises(InputError, match="do not belong together"):
        read_keys(tmp_path)


@pytest.mark.parametrize("name", ["", "key", "masters", "workers"])
def test_keys_that_others_could_have_written_are_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who can write `masters` can be the master."""
    folder = tmp_path / "keys"
    pair = write_keys(folder)
    (folder / "masters").write_text(f"{pair.public}\n")
    (folder / "workers").write_text(f"* {pair.public}\n")
    assert read_keys(folder).masters == {pair.public}
    if name != "key":
        (folder / name).chmod(0o777)
        with pytest.raises(InputError, match="can be written by others"):
            read_keys(folder)
        (folder / name).chmod(0o700)
    (tmp_path / "link").symlink_to(folder / name)
    assert read_keys(tmp_path / "link").own == pair if not name else True
    give_away(folder / name, monkeypatch)
    with pytest.raises(InputError, match="belongs to"):
        read_keys(folder)


def test_keygen_follows_no_link(tmp_path: Path) -> None:
    folder, other = tmp_path / "keys", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    (other / "file").write_text("untouched")
    (folder / "key.pub").symlink_to(other / "file")
    write_keys(folder)
    assert (other / "file").read_text() == "untouched"
    (folder / "key").unlink()
    (folder / "key").symlink_to(other / "new")
    with pytest.raises(InputError, match="exists already"):
        write_keys(folder)
    (tmp_path / "link").symlink_to(other)
    with pytest.raises(InputError, match="is a link"):
        write_keys(tmp_path / "link")
    assert [file.name for file in other.iterdir()] == ["file"]
    with pytest.raises(InputError, match="can't be made"):
        write_keys(Path("/proc/keys"))


def test_a_key_file_that_is_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    write_keys(tmp_path)
    os.mkfifo(tmp_path / "masters", mode=0o600)
    with pytest.raises(InputError, match="it is a pipe"):
        read_keys(tmp_path)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("tcp://127.0.0.1:1", True),
        ("tcp://localhost:1", True),
        ("tcp://[::1]:1", True),
        ("ipc:///tmp/x", True),
        ("tcp://*:1", False),
        ("tcp://0.0.0.0:1", False),
        ("tcp://10.0.0.7:1", False),
        ("tcp://pi1:1", False),
        ("tcp://[fe80::1]:1", False),
    ],
)
def test_only_loopback_goes_without_keys_unasked(
    address: str, local: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert is_local(address) is local
    assert keys_for([address], None, insecure=True) is None
    if local:
        assert keys_for([address], None, insecure=False) is None
    else:
        with pytest.raises(InputError, match="--insecure"):
            keys_for([address], None, insecure=False)
