"""RunOptions: options for running a plan and reaching the cluster. Each has one default and one check, here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fogconv.cluster.protocol.timeouts import HEARTBEAT_S, MESSAGE_S
from fogconv.errors import InputError
from fogconv.values import table


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Raises InputError for impossible values."""

    adapt: bool = True
    """Measure ranks and links, and plan again where they differ from the plan (`fogconv.runtime.drift`). A given plan is
    kept."""
    rehearse: bool = False
    """Plan for losses beforehand: every worker compiles and receives what it would need after the loss of any one
    worker."""
    early: bool = False
    """Begin before all weights are on the workers: they are sent in the order of what each gains per byte, and the plan
    changes as they land (scheme offload)."""
    measure: bool = False
    """Measure the rates of devices and links again, even if they are in the cache."""
    threads: int = 0
    """Threads for the kernels of the master and of in-process workers; 0: all cores."""
    memory_bytes: int | None = None
    """Memory for the programs of the master, and of each in-process worker, counted as a worker's limit; None: no limit."""
    timeout_s: float = MESSAGE_S
    """The time limit for one message of a run."""
    heartbeat_s: float = HEARTBEAT_S
    """The time within which a lost worker is noticed."""
    keys: Path | None = None
    """The folder with this device's keys; with it loopback connections are encrypted as well."""
    insecure: bool = False
    """Allow network connections without encryption and keys."""

    def __post_init__(self) -> None:
        if self.early and self.rehearse:
            raise InputError("--rehearse sends all that losses need before the first inference, and --early does not wait")
        table.THREADS.check("threads", self.threads)
        if self.memory_bytes is not None:
            table.MEMORY.check("memory_bytes", self.memory_bytes)
        table.MESSAGE_TIME.check("timeout_s", self.timeout_s)
        table.HEARTBEAT.check("heartbeat_s", self.heartbeat_s)
