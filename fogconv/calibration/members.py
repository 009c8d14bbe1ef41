"""Members: the ranks of a session as what they run on: whose machine, which of its cores, how fast a hostfile says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from fogconv.calibration.cache import Master, Worker
from fogconv.cluster.protocol.messages import Machine
from fogconv.hardware.hostfile import read_hostfile
from fogconv.hardware.tiers import MASTERS
from fogconv.ir.layout import MASTER


class Session(Protocol):
    """Whose members they are."""

    @property
    def workers(self) -> Sequence[Worker]: ...


def master() -> Master:
    """This process as rank 0."""
    from fogconv.cluster.protocol.version import VERSION
    from fogconv.cluster.worker.machine import machine
    from fogconv.cluster.worker.process import cores
    from fogconv.kernels.codegen.isa import host_isa, host_multiplies, host_vectors
    from fogconv.kernels.conv.tuning_table import fingerprint

    here = os.uname().nodename, cores(), host_isa().name, VERSION, machine(), fingerprint()
    return Master(*here, multiplies=host_multiplies(), vectors=host_vectors())


def machines_of(session: Session) -> dict[int, str]:
    """Every rank that is there, with the identity of the machine that it runs on."""
    return {0: master().machine.identity, **{worker.rank: worker.machine.identity for worker in session.workers}}


def machine_cores(machines: Sequence[Machine]) -> dict[str, float]:
    """How many cores the ranks of each machine have together: all that one of them may use, within the quota."""
    cpus: dict[str, set[int]] = {}
    found: dict[str, float] = {}
    for each in machines:
        if each.identity and each.cpus:
            mine = cpus.setdefault(each.identity, set())
            mine.update(each.cpus)
            found[each.identity] = min(len(mine), each.quota_cores or len(mine))
    return found


def priors_of(cluster: str) -> dict[int, float]:
    """By rank, the relative rates that a hostfile gives its workers; empty for what is none."""
    if not cluster or "://" in cluster:
        return {}
    rates = [host.rate for host in read_hostfile(cluster) for _ in range(host.slots)]
    return {rank: rate for rank, rate in enumerate(rates, start=1) if rate is not None}


def tiers_of(cluster: str) -> dict[int, str]:
    """By rank, the tiers that a hostfile gives its workers, and the master's where it gives any; empty for what is none."""
    if not cluster or "://" in cluster:
        return {}
    tiers = [host.tier for host in read_hostfile(cluster) for _ in range(host.slots)]
    found = {rank: tier for rank, tier in enumerate(tiers, start=1) if tier is not None}
    return {MASTER: MASTERS, **found} if found else {}
