"""Roster: what the master knows of each worker, and what it says of one that failed or is lost."""

from __future__ import annotations

from dataclasses import dataclass

import fogconv.errors
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.lifecycle import Lifecycle
from fogconv.cluster.transport.endpoint import Peer
from fogconv.errors import FogconvError, WorkerFailedError


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker as it introduced itself. Memory is the process's; a limit of 0 means none.

    ``clock_offset_ns``: the worker's perf_counter_ns minus the master's, off by at most ``clock_error_ns``.
    """

    rank: int
    address: str
    host: str
    pid: int
    threads: int
    memory_limit_bytes: int
    memory_bytes: int
    isa: str
    software: str
    protocol: int = m.PROTOCOL_VERSION
    clock_offset_ns: int = 0
    clock_error_ns: int = 0


@dataclass(slots=True)
class Link:
    """The master's end of the connection to one worker."""

    rank: int
    address: str
    key: str | None
    peer: Peer
    life: Lifecycle
    info: WorkerInfo | None = None
    refusal: str = ""
    loss: str = ""
    seen: float = 0.0
    invited: float = 0.0


def failure_of(message: m.Failed, rank: int, link: Link) -> FogconvError:
    """A worker's error as the same error here; one that this side does not know is a WorkerFailedError."""
    where = f"worker {rank} ({link.address})"
    kind = getattr(fogconv.errors, message.error, None)
    if kind is fogconv.errors.TransportTimeout:
        return fogconv.errors.TransportTimeout(f"{where}: {message.message}")
    if kind in (fogconv.errors.WorkerMemoryError, fogconv.errors.WorkerLostError):
        error: FogconvError = kind(f"{where}: {message.message}", rank)
        return error
    return WorkerFailedError(f"{where} failed: {message.error}: {message.message}", rank)


def loss_message(link: Link) -> str:
    host = f" on {link.info.host}" if link.info is not None else ""
    if link.life.joined:
        return f"worker {link.rank} at {link.address}{host} was lost, and came back without what it was asked"
    return f"worker {link.rank} at {link.address}{host} is lost: {link.loss or 'it never joined'}"
