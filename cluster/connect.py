"""Connect: from what the user names to an open Session.

inproc://4                          four workers, threads of this process
tcp://pi1:5555,tcp://[fe80::1]:5555 workers at these addresses (ipc://PATH too)
["tcp://pi1:5555", …]               the same
hostfile.txt                        a hostfile; its ports, or 5555
mpi://                              all other ranks of this mpirun
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fogconv.cluster.executor.interface import Build, Runnable
from fogconv.cluster.protocol.keys import Keys, default_folder, is_local, read_keys
from fogconv.cluster.session.session import Session
from fogconv.cluster.transport.inproc import Hub
from fogconv.cluster.transport.mpi.watchdog import LastWord
from fogconv.cluster.worker.process import cores
from fogconv.cluster.worker.server import Worker
from fogconv.errors import InputError
from fogconv.hardware.hostfile import DEFAULT_PORT, read_hostfile
from fogconv.ir import program as ir

MAX_INPROC_WORKERS = 256


def connect(
    cluster: str | Sequence[str] | Path,
    *,
    name: str = "",
    timeout_s: float = 60.0,
    connect_timeout_s: float = 5.0,
    heartbeat_s: float = 1.0,
    keys: Keys | Path | None = None,
    insecure: bool = False,
    shared: bool = True,
    threads: int | None = None,
    build: Build | None = None,
    local: Callable[[ir.Program, Mapping[str, Any], Any], Runnable] | None = None,
    last_word: LastWord | None = None,
) -> Session:
    """Open a session with the workers named (see above).

    ``timeout_s`` is for each message that a run waits for, ``heartbeat_s`` the time within which a lost worker is noticed,
    ``threads`` each in-process worker's. ``keys``, or the folder that holds them, encrypt every link; without, the user's
    folder is used where a link leaves this machine, unless ``insecure``. ``shared``: long payloads to workers on this
    machine lie in memory that both see; else they go over loopback. ``build`` and ``local`` stand in for the interpreter,
    for tests. ``last_word``: over MPI, instead of one that only the session's end silences. Raises InputError,
    ConnectError, RefusedError, DependencyError.
    """
    options: dict[str, Any] = {"name": name, "timeout_s": timeout_s, "local": local}
    if isinstance(cluster, str) and cluster.startswith("inproc://"):
        return _inproc(_worker_count(cluster), threads, build, options)
    if isinstance(cluster, str) and cluster.startswith("mpi:"):
        return _mpi(last_word, options)
    addresses = addresses_of(cluster)
    from fogconv.cluster.transport.zeromq.endpoint import ZeromqEndpoint

    own = keys_for(addresses, keys, insecure)
    endpoint = ZeromqEndpoint(heartbeat_s=heartbeat_s, keys=own, shared=shared)
    try:
        listed = [None if own is None else own.of_worker(address) for address in addresses]
    except BaseException:
        endpoint.close()
        raise
    return Session(endpoint, addresses, keys=listed, connect_timeout_s=connect_timeout_s, **options)


def keys_for(addresses: Sequence[str], keys: Keys | Path | None, insecure: bool) -> Keys | None:
    """The keys to use with these addresses; None where all is on this machine, or ``insecure``. Raises InputError."""
    if isinstance(keys, Keys):
        return keys
    if keys is not None:
        return read_keys(keys)
    if insecure or all(is_local(address) for address in addresses):
        return None
    return read_keys(default_folder())


def addresses_of(cluster: str | Sequence[str] | Path) -> list[str]:
    """The ZeroMQ addresses that a list of addresses or a hostfile names. Raises InputError, TopologyError."""
    if isinstance(cluster, str):
        if "://" not in cluster:
            return _hostfile_addresses(Path(cluster))
        cluster = [address.strip() for address in cluster.split(",") if address.strip()]
    if isinstance(cluster, Path):
        return _hostfile_addresses(cluster)
    addresses = [check_address(address) for address in cluster]
    if not addresses:
        raise InputError("the cluster names no worker")
    for address in addresses:
        if addresses.count(address) > 1:
            raise InputError(f"{address} is listed twice; each worker has an address of its own")
    return addresses


def check_address(address: str) -> str:
    """``tcp://HOST:PORT`` (an IPv6 host in brackets) or ``ipc://PATH``, else InputError."""
    scheme, separator, rest = address.partition("://")
    if scheme == "ipc" and rest:
        return address
    host, colon, port = rest.rpartition(":")
    if scheme != "tcp" or not separator or not colon or not host.strip("[]"):
        raise InputError(
            f"{address!r} is no worker's address; write tcp://HOST:PORT (IPv6: tcp://[HOST]:PORT) or ipc://PATH"
        )
    if not (port.isascii() and port.isdigit() and 0 < int(port) <= 65535):
        raise InputError(f"{address!r}: the port must be a number from 1 to 65535")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise InputError(f"{address!r}: an IPv6 host stands in brackets: tcp://[{host}]:{port}")
    return address


def _hostfile_addresses(path: Path) -> list[str]:
    """One address per slot: a host with several slots and no ports of its own runs workers on consecutive ports."""
    addresses = []
    for host in read_hostfile(path):
        first = host.port or DEFAULT_PORT
        addresses += [f"tcp://{host.name}:{first + slot}" for slot in range(host.slots)]
    return addresses


def _worker_count(address: str) -> int:
    text = address.removeprefix("inproc://")
    if not (text.isascii() and text.isdigit() and int(text) <= MAX_INPROC_WORKERS):
        raise InputError(f"{address!r}: write inproc://N with N from 0 to {MAX_INPROC_WORKERS}, the number of workers")
    return int(text)


def _mpi(last_word: LastWord | None, options: Mapping[str, Any]) -> Session:
    """On rank 0 a session with all other ranks. On these it serves until the master leaves, and does not return."""
    from fogconv.cluster.transport.mpi.endpoint import MpiEndpoint
    from fogconv.cluster.transport.mpi.launch import launched
    from fogconv.cluster.worker.process import serve_mpi

    launch = launched()
    if launch is None:
        raise InputError("mpi:// needs mpirun: mpirun -n 5 fogconv-run MODEL")
    if launch.rank:
        serve_mpi()
    word = last_word or LastWord()
    try:
        endpoint = MpiEndpoint()
    except BaseException:
        word.silence()
        raise
    # Ranks start together, but a small device may take a while to import what it needs.
    addresses = [f"mpi://{rank}" for rank in range(1, endpoint.size)]
    return Session(endpoint, addresses, connect_timeout_s=60.0, on_close=word.silence, **options)


def _inproc(count: int, threads: int | None, build: Build | None, options: Mapping[str, Any]) -> Session:
    each = threads or max(1, cores() // (count + 1))
    hub = Hub()
    addresses = [f"inproc://worker/{number}" for number in range(1, count + 1)]
    # Shipping within the process is free, and keeping the plain weights too would double them.
    workers = [Worker(hub.endpoint(address), build=build, threads=each, keep_weights=False) for address in addresses]
    started = [
        threading.Thread(target=worker.serve, name=address, daemon=True)
        for worker, address in zip(workers, addresses, strict=True)
    ]
    for thread in started:
        thread.start()

    def stop() -> None:
        for worker in workers:
            worker.stop()
        for thread in started:
            thread.join(timeout=5.0)

    return Session(hub.endpoint("inproc://master"), addresses, on_close=stop, **options)
