"""What the user may name as a cluster, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from fogconv.cluster.connect import addresses_of, connect
from fogconv.errors import InputError, TopologyError
from tests.cluster.programs import FakeExecutable, fake_local

pytestmark = pytest.mark.alone


def test_addresses_come_as_a_string_or_as_a_list() -> None:
    expected = ["tcp://pi1:5555", "tcp://[fe80::1]:5556", "ipc:///tmp/worker"]
    assert addresses_of("tcp://pi1:5555, tcp://[fe80::1]:5556,ipc:///tmp/worker") == expected
    assert addresses_of(expected) == expected


def test_a_hostfile_gives_ports_and_slots(tmp_path: Path) -> None:
    hostfile = tmp_path / "hosts"
    hostfile.write_text("pi1\n#fogconv port=6000\npi2:2\n")
    expected = ["tcp://pi1:5555", "tcp://pi2:6000", "tcp://pi2:6001"]
    assert addresses_of(hostfile) == expected
    assert addresses_of(str(hostfile)) == expected
    hostfile.write_text("pi1\npi2 slots=4\n")
    with pytest.raises(TopologyError, match="line 2"):
        addresses_of(hostfile)


@pytest.mark.parametrize(
    ("cluster", "complaint"),
    [
        ("tcp://pi1", "is no worker's address"),
        ("http://pi1:80", "no transport 'http'; write tcp://HOST:PORT .*, ipc://PATH, inproc://N or mpi://$"),
        ("tcp://pi1:1,pi2:1", "is no worker's address; write tcp://HOST:PORT"),
        ("inproc://1,inproc://2", "is a whole cluster"),
        ("tcp://pi1:1,mpi://", "is a whole cluster"),
        ("tcp://:5555", "is no worker's address"),
        ("tcp://pi1:0", "port must be a number from 1 to 65535"),
        ("tcp://pi1:65536", "port must be a number"),
        ("tcp://pi1:http", "port must be a number"),
        ("tcp://fe80::1:5555", r"stands in brackets: tcp://\[fe80::1\]:5555"),
        ("tcp://pi1:1,tcp://pi1:1", "listed twice"),
        ("tcp://pi1:1,tcp://PI1:01", "listed twice .also written 'tcp://pi1:1'"),
        ("tcp://[::1]:1,tcp://[0:0::1]:1", "listed twice"),
        ("tcp://*:5555", "name the host"),
        ("ipc://@fogconv", "any local user"),
        ("inproc://" + 5000 * "1", "write inproc://N"),
        ([], "names no worker"),
        ("inproc://many", "write inproc://N"),
        ("inproc://-1", "write inproc://N"),
        ("inproc://1000", "write inproc://N"),
        ("mpi://", "needs mpirun"),
        ("/no/such/hostfile", "can't be read"),
    ],
)
def test_what_names_no_cluster_is_told(cluster: str | list[str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        connect(cluster)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_in_process_workers_come_and_go_with_the_session(count: int) -> None:
    with connect(f"inproc://{count}", build=FakeExecutable, local=fake_local) as session:
        assert [info.rank for info in session.workers] == list(range(1, count + 1))
        assert session.scheme == "inproc"
