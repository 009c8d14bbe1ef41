"""Transports by the scheme of their addresses: how a master reaches its workers, and how a worker listens.

A new transport is one more entry of TRANSPORTS. An entry imports its modules on use, because ZeroMQ and MPI import
slowly.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fogconv.cluster.executor.interface import Build
from fogconv.cluster.protocol.codec import MAX_PAYLOAD_BYTES
from fogconv.cluster.protocol.keys import Keys, is_local, keys_for
from fogconv.cluster.protocol.timeouts import HEARTBEAT_S
from fogconv.cluster.transport.endpoint import Endpoint
from fogconv.cluster.transport.mpi.watchdog import LastWord
from fogconv.errors import InputError, quoted
from fogconv.hardware.address import parse_address, split_scheme
from fogconv.values.table import MOST_INPROC_WORKERS

log = logging.getLogger("fogconv.transport")

MPI_START_S = 60.0
"""Ranks start together, but a small device may take a while to import what it needs."""


@dataclass(frozen=True)
class Dialing:
    """A master's options for its transport; each transport uses those that apply. See
    `fogconv.cluster.connect.connect`."""

    heartbeat_s: float = HEARTBEAT_S
    keys: Keys | Path | None = None
    insecure: bool = False
    shared: bool = True
    threads: int | None = None
    build: Build | None = None
    last_word: LastWord | None = None


@dataclass(frozen=True)
class Dialed:
    """A master's end: ``keys[i]`` is the public key of the worker at ``addresses[i]``. ``on_close``: called at the
    end."""

    endpoint: Endpoint
    addresses: Sequence[str]
    keys: Sequence[str | None] = ()
    connect_timeout_s: float | None = None
    """The time for the workers' first answer, where the transport overrides the user's."""
    rejoins: bool = True
    """Whether a worker that was lost can come back."""
    on_close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Listening:
    """A worker's options for its transport."""

    heartbeat_s: float = HEARTBEAT_S
    keys: Path | None = None
    insecure: bool = False
    max_payload_bytes: int = MAX_PAYLOAD_BYTES
    has_room: Callable[[int], bool] = lambda nbytes: True
    """Whether payloads may still take so many bytes."""


@dataclass(frozen=True)
class Listener:
    """A worker's end. ``masters``: the public keys of allowed masters; None: any master, without encryption."""

    endpoint: Endpoint
    address: str
    masters: frozenset[str] | None = None


@dataclass(frozen=True)
class Transport:
    """``form``: how its addresses are written; ``check`` gives an address's canonical form, or raises InputError.

    ``whole``: one address names a whole cluster. ``listen`` is None where ``dial`` or a launcher starts the workers.
    """

    scheme: str
    form: str
    check: Callable[[str], str]
    dial: Callable[[Sequence[str], Dialing], Dialed]
    listen: Callable[[str, Listening], Listener] | None = None
    whole: bool = False


def transport_of(address: str) -> Transport:
    """The transport of an address. Raises InputError, which names the existing ones."""
    scheme, _ = split_scheme(address)
    found = TRANSPORTS.get(scheme)
    if found is None:
        why = f": there is no transport {quoted(scheme)}" if scheme else " is no worker's address"
        raise InputError(f"{quoted(address)}{why}; write {_either(TRANSPORTS.values())}")
    return found


def transport_of_all(addresses: Sequence[str]) -> Transport:
    """The one transport of all of a cluster's addresses, each of them checked. Raises InputError."""
    if not addresses:
        raise InputError("the cluster names no worker")
    transports = [transport_of(address) for address in addresses]
    taken: dict[str, str] = {}
    for address, transport in zip(addresses, transports, strict=True):
        canonical = transport.check(address)
        if canonical in taken:
            also = f" (also written {quoted(taken[canonical])})" if taken[canonical] != address else ""
            raise InputError(f"{quoted(address)} is listed twice{also}; each worker has its own address")
        taken[canonical] = address
        if transport.whole and len(addresses) > 1:
            raise InputError(f"{quoted(address)} is a whole cluster; list nothing beside it")
        if transport.dial is not transports[0].dial:
            raise InputError(
                f"{quoted(addresses[0])} and {quoted(address)} can't be in one cluster: their transports differ"
            )
    return transports[0]


def listen(bind: str, options: Listening) -> Listener:
    """A worker's end at an address. Raises ConnectError, and InputError where no worker can listen or keys are needed."""
    transport = transport_of(bind)
    if transport.listen is None:
        raise InputError(f"{quoted(bind)}: no worker listens there; write {listening_forms()}")
    return transport.listen(bind, options)


def listening_forms() -> str:
    """The forms of addresses at which workers listen, as text."""
    return _either(transport for transport in TRANSPORTS.values() if transport.listen is not None)


def _either(transports: Iterable[Transport]) -> str:
    *most, last = (transport.form for transport in transports)
    return f"{', '.join(most)} or {last}"


# ZeroMQ


def _check_zeromq(address: str) -> str:
    return str(parse_address(address))


def _dial_zeromq(addresses: Sequence[str], options: Dialing) -> Dialed:
    from fogconv.cluster.transport.zeromq.descriptors import make_room
    from fogconv.cluster.transport.zeromq.endpoint import ZeromqEndpoint

    make_room(len(addresses))
    own = keys_for(addresses, options.keys, options.insecure)
    distant = [] if own is not None else [address for address in addresses if not is_local(address)]
    if distant:
        log.warning("--insecure: nothing proves that %s are yours, and nothing is encrypted", ", ".join(distant))
    endpoint = ZeromqEndpoint(heartbeat_s=options.heartbeat_s, keys=own, shared=options.shared)
    try:
        return Dialed(endpoint, addresses, [None if own is None else own.of_worker(address) for address in addresses])
    except BaseException:
        endpoint.close()
        raise


def _listen_zeromq(bind: str, options: Listening) -> Listener:
    from fogconv.cluster.transport.zeromq.endpoint import ZeromqEndpoint

    parse_address(bind, listening=True)
    own = keys_for([bind], options.keys, options.insecure)
    endpoint = ZeromqEndpoint(
        bind,
        heartbeat_s=options.heartbeat_s,
        keys=own,
        max_payload_bytes=options.max_payload_bytes,
        has_room=options.has_room,
    )
    return Listener(endpoint, endpoint.address, None if own is None else own.masters)


# In this process


def _check_inproc(address: str) -> str:
    text = address.removeprefix("inproc://")
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and int(text) <= MOST_INPROC_WORKERS):
        raise InputError(
            f"{quoted(address)}: write inproc://N with N from 0 to {MOST_INPROC_WORKERS}, the number of workers"
        )
    return address


def _dial_inproc(addresses: Sequence[str], options: Dialing) -> Dialed:
    from fogconv.cluster.transport.inproc import Hub
    from fogconv.cluster.worker.process import cores
    from fogconv.cluster.worker.server import Worker

    count = int(addresses[0].removeprefix("inproc://"))
    each = options.threads or max(1, cores() // (count + 1))
    hub = Hub()
    names = [f"inproc://worker/{number}" for number in range(1, count + 1)]
    # Sending within the process is free, and keeping the plain weights too would double the memory.
    workers = [Worker(hub.endpoint(name), build=options.build, threads=each, keep_weights=False) for name in names]
    started = [
        threading.Thread(target=worker.serve, name=name, daemon=True) for worker, name in zip(workers, names, strict=True)
    ]
    for thread in started:
        thread.start()

    def stop() -> None:
        for worker in workers:
            worker.stop()
        for thread in started:
            thread.join(timeout=5.0)

    return Dialed(hub.endpoint("inproc://master"), names, on_close=stop)


# MPI


def _check_mpi(address: str) -> str:
    if address != "mpi://":
        raise InputError(f"{quoted(address)}: write mpi:// for all ranks of this mpirun")
    return address


def _dial_mpi(addresses: Sequence[str], options: Dialing) -> Dialed:
    """On rank 0, returns the connection to all other ranks. On these it serves until the master leaves, and does not
    return."""
    from fogconv.cluster.transport.mpi.endpoint import MpiEndpoint
    from fogconv.cluster.transport.mpi.launch import launched
    from fogconv.cluster.worker.process import serve_mpi

    launch = launched()
    if launch is None:
        raise InputError("mpi:// needs mpirun: mpirun -n 5 fogconv-run MODEL")
    if launch.rank:
        serve_mpi()
    word = options.last_word or LastWord()
    try:
        endpoint = MpiEndpoint()
    except BaseException:
        word.silence()
        raise
    ranks = [f"mpi://{rank}" for rank in range(1, endpoint.size)]
    return Dialed(endpoint, ranks, connect_timeout_s=MPI_START_S, rejoins=False, on_close=word.silence)


TRANSPORTS = {
    transport.scheme: transport
    for transport in (
        Transport("tcp", "tcp://HOST:PORT (IPv6: tcp://[HOST]:PORT)", _check_zeromq, _dial_zeromq, _listen_zeromq),
        Transport("ipc", "ipc://PATH", _check_zeromq, _dial_zeromq, _listen_zeromq),
        Transport("inproc", "inproc://N", _check_inproc, _dial_inproc, whole=True),
        Transport("mpi", "mpi://", _check_mpi, _dial_mpi, whole=True),
    )
}
