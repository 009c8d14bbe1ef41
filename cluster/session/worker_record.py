"""WorkerRecord: the master's data on one worker, and the errors for one that failed or is lost."""

from __future__ import annotations

from dataclasses import dataclass, field

import fogconv.errors
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.lifecycle import Life, Master, Service
from fogconv.cluster.transport.endpoint import Peer
from fogconv.errors import FogconvError, WorkerFailedError
from fogconv.ir.memory.algorithm import Vectors
from fogconv.ir.precision.elements import Element


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker's data from its Welcome. Memory is the process's; a limit of 0 means none.

    ``clock_offset_ns``: the worker's perf_counter_ns minus the master's, off by at most ``clock_error_ns``.
    ``multiplies``, ``vectors``: see `fogconv.cluster.protocol.messages.Welcome`.
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
    machine: m.Machine = m.Machine()
    kernels: str = ""
    protocol: int = m.PROTOCOL_VERSION
    clock_offset_ns: int = 0
    clock_error_ns: int = 0
    multiplies: tuple[Element, ...] = ()
    vectors: Vectors | None = None


@dataclass(slots=True)
class WorkerRecord:
    """The master's end of the connection to one worker. ``master`` is this session's name in the worker's ``life``."""

    rank: int
    address: str
    key: str | None
    master: Master
    life: Life = field(default_factory=Life)
    peer: Peer = None
    info: WorkerInfo | None = None
    invited: float = 0.0
    last_message: float = 0.0
    """When, by time.monotonic()."""

    @property
    def service(self) -> Service:
        """The worker's life with this session."""
        return self.life.of(self.master)

    @property
    def joined(self) -> bool:
        return self.service.joined

    @property
    def loss(self) -> str:
        """The cause of its loss; empty where it refused, or never answered."""
        service = self.service
        return "" if service.refused else service.reason

    @property
    def refusal(self) -> str:
        service = self.service
        return service.reason if service.refused else ""


def failure_of(message: m.Failed, record: WorkerRecord) -> FogconvError:
    """A worker's error as the same error here; an unknown one becomes a WorkerFailedError."""
    where = f"worker {record.rank} ({record.address})"
    kind = getattr(fogconv.errors, message.error, None)
    if kind is fogconv.errors.TransportTimeout:
        return fogconv.errors.TransportTimeout(f"{where}: {message.message}")
    if kind in (fogconv.errors.WorkerMemoryError, fogconv.errors.WorkerLostError):
        error: FogconvError = kind(f"{where}: {message.message}", record.rank)
        return error
    if kind is fogconv.errors.SwapError:
        return fogconv.errors.SwapError(f"{where}: {message.message}")
    return WorkerFailedError(f"{where} failed: {message.error}: {message.message}", record.rank)


def loss_message(record: WorkerRecord) -> str:
    host = f" on {record.info.host}" if record.info is not None else ""
    if record.joined:
        return f"worker {record.rank} at {record.address}{host} was lost, and came back without the request"
    return f"worker {record.rank} at {record.address}{host} is lost: {record.loss or 'it never joined'}"
