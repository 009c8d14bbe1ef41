"""Connect: open a Session with the workers that the user names.

inproc://4                          four workers, threads of this process
tcp://pi1:5555,tcp://[fe80::1%eth0]:5555 workers at these addresses (ipc://PATH too)
["tcp://pi1:5555", …]               the same
hostfile.txt                        a hostfile; its ports, or 5555
mpi://                              all other ranks of this mpirun
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fogconv.cluster.executor.interface import Build, Runnable
from fogconv.cluster.protocol.keys import Keys
from fogconv.cluster.protocol.timeouts import HEARTBEAT_S, MESSAGE_S
from fogconv.cluster.session.session import Session
from fogconv.cluster.transport.mpi.watchdog import LastWord
from fogconv.cluster.transport_registry import Dialing, transport_of_all
from fogconv.errors import InputError, shown
from fogconv.hardware.hostfile import read_hostfile
from fogconv.ir.program import Program
from fogconv.values import table


def connect(
    cluster: str | Sequence[str] | Path,
    *,
    name: str = "",
    timeout_s: float = MESSAGE_S,
    connect_timeout_s: float = 5.0,
    heartbeat_s: float = HEARTBEAT_S,
    keys: Keys | Path | None = None,
    insecure: bool = False,
    shared: bool = True,
    threads: int | None = None,
    build: Build | None = None,
    local: Callable[[Program, Mapping[str, Any], Any], Runnable] | None = None,
    last_word: LastWord | None = None,
) -> Session:
    """Open a session with the workers that ``cluster`` names: inproc://N, tcp://HOST:PORT,…, mpi:// or a hostfile's path.

    ``timeout_s`` is for each message that a run waits for, ``heartbeat_s`` the time within which a lost worker is noticed,
    ``threads`` each in-process worker's. ``keys``, or the folder that holds them, encrypt every link; by default the
    user's folder is used where a link leaves this machine, unless ``insecure``. ``shared``: large payloads to workers on
    this machine use shared memory; otherwise they are sent over loopback. ``build`` and ``local`` replace the interpreter
    in tests. ``last_word``: over MPI, instead of one that only the session's end disarms. Raises InputError,
    ConnectError, RefusedError, DependencyError.
    """
    table.MESSAGE_TIME.check("timeout_s", timeout_s)
    table.CONNECT_TIME.check("connect_timeout_s", connect_timeout_s)
    table.HEARTBEAT.check("heartbeat_s", heartbeat_s)
    if threads is not None:
        table.THREADS.check("threads", threads)
    addresses = addresses_of(cluster)
    wishes = Dialing(heartbeat_s, keys, insecure, shared, threads, build, last_word)
    dialed = transport_of_all(addresses).dial(addresses, wishes)
    return Session(
        dialed.endpoint,
        dialed.addresses,
        keys=dialed.keys,
        local=local,
        name=name,
        timeout_s=timeout_s,
        connect_timeout_s=connect_timeout_s if dialed.connect_timeout_s is None else dialed.connect_timeout_s,
        rejoins=dialed.rejoins,
        on_close=dialed.on_close,
    )


def addresses_of(cluster: str | Sequence[str] | Path) -> list[str]:
    """The addresses that a list of them, or a hostfile, names, all of one transport. Raises InputError, TopologyError."""
    if isinstance(cluster, Path) or (isinstance(cluster, str) and "://" not in cluster):
        addresses = _hostfile_addresses(Path(cluster))
    elif isinstance(cluster, str):
        addresses = [address.strip() for address in cluster.split(",") if address.strip()]
    elif isinstance(cluster, Sequence):
        addresses = list(cluster)
    else:
        raise InputError(f"{shown(str(cluster))} names no workers; write inproc://N, tcp://HOST:PORT,… or a hostfile's path")
    transport_of_all(addresses)
    return addresses


def _hostfile_addresses(path: Path) -> list[str]:
    """One address per slot: a host with several slots and no ports of its own runs workers on consecutive ports."""
    return [f"tcp://{host.name}:{port}" for host in read_hostfile(path) for port in host.ports]
