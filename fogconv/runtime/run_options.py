"""RunOptions: how a plan is run, and how the cluster is reached. Each has one default and one check, here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fogconv.cluster.protocol.timeouts import HEARTBEAT_S, MESSAGE_S
from fogconv.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Raises InputError for what is not possible."""

    adapt: bool = True
    """Watch how long ranks and links take, and plan anew where that is off (`fogconv.runtime.drift`); a plan that is given
    stays."""
    rehearse: bool = False
    """Plan for losses beforehand: every worker compiles, and is sent, what any single loss would ask of it."""
    measure: bool = False
    """Measure the rates of devices and links anew, whatever is remembered of them."""
    threads: int = 0
    """For the master's and in-process workers' kernels; 0: all cores."""
    timeout_s: float = MESSAGE_S
    """For one message of a run."""
    heartbeat_s: float = HEARTBEAT_S
    """Within which a lost worker is noticed."""
    keys: Path | None = None
    """The folder with this device's keys; it encrypts on loopback, too."""
    insecure: bool = False
    """Go without encryption and keys on a network."""

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise InputError(f"threads {self.threads}: it must be 0 (all cores) or more")
        for name, value in (("timeout", self.timeout_s), ("heartbeat", self.heartbeat_s)):
            if not value > 0:
                raise InputError(f"{name} {value:g}: it must be a positive number of seconds")
