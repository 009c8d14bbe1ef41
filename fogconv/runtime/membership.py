"""Recovery: the members of the next run, after workers were lost or came back. Pure: no I/O, no clock.

    members      the session's ranks that the plan is for, the master first: rank i of the plan is members[i] of the session
    present   the workers that respond now
    MembershipChange      the next members, and a message about each change

The answer of an inference never depends on the members: after a loss the inference is run again from its input by the
others, with a new plan. The master alone is a valid set of members.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from fogconv.cluster.session.worker_record import WorkerInfo
from fogconv.errors import TransportTimeout, WorkerFailedError, WorkerLostError
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layout import MASTER
from fogconv.ir.memory.footprint import PROCESS_BYTES
from fogconv.ir.plan import Plan
from fogconv.planning.memory import needed_bytes


@dataclass(frozen=True, slots=True)
class MembershipChange:
    """``changed``: the loaded programs are no longer valid, even where the members are the same (a worker left and came
    back without them)."""

    members: tuple[int, ...]
    changed: bool
    events: tuple[str, ...] = ()


def next_members(members: Sequence[int], present: Collection[int], returned: Collection[int] = ()) -> MembershipChange:
    """Before an inference: drop lost members, add those that ``returned``, in the order of ranks."""
    gone = [rank for rank in members if rank != MASTER and rank not in present]
    come = sorted(rank for rank in returned if rank in present)
    after = tuple(sorted({MASTER, *(rank for rank in members if rank not in gone), *come}))
    if not gone and not come:
        return MembershipChange(tuple(members), False)
    events = []
    if gone:
        events.append(f"{_workers(gone)} {_was(gone)} lost between inferences; re-planned over {over(after)}")
    if come:
        events.append(f"{_workers(come)} rejoined; re-planned over {over(after)}")
    return MembershipChange(after, True, tuple(events))


def at_first(ranks: Collection[int], present: Collection[int]) -> MembershipChange:
    """The first members, where some of a cluster's ranks may have been lost since it was opened."""
    gone = [rank for rank in sorted(ranks) if rank != MASTER and rank not in present]
    members = tuple(rank for rank in sorted(ranks) if rank not in gone)
    events = (
        (f"{_workers(gone)} {_was(gone)} lost before the first inference; planned over {over(members)}",) if gone else ()
    )
    return MembershipChange(members, False, events)


def after_loss(members: Sequence[int], present: Collection[int], cause: str, *, frames: int = 1) -> MembershipChange | None:
    """In the middle of an inference, or of ``frames`` in flight: the members that run it again. None where no member is
    lost: then the cause is not a loss.
    """
    left = tuple(rank for rank in members if rank == MASTER or rank in present)
    if len(left) == len(members):
        return None
    match frames:
        case 0:
            done = f"re-planned over {over(left)}"
        case 1:
            done = f"the inference ran again from its input on {over(left)}"
        case _:
            done = f"{frames} inferences in flight ran again from their inputs on {over(left)}"
    return MembershipChange(left, True, (f"{cause}; {done}",))


def rehearsals(members: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The sets of members that losses can leave: without any one worker, then fewer and fewer, down to the master
    alone."""
    workers = [rank for rank in members if rank != MASTER]
    one_less = [(MASTER, *(other for other in workers if other != rank)) for rank in workers]
    fewer = [(MASTER, *workers[:count]) for count in range(len(workers) - 2, -1, -1)]
    return tuple(dict.fromkeys((*one_less, *fewer)))


def topology_of(topology: Topology, members: Sequence[int]) -> Topology:
    """The topology of these members."""
    return topology if tuple(members) == tuple(topology.ranks) else topology.subset(members)


def with_less_memory(topology: Topology, graph: LayerGraph, plan: Plan, members: Sequence[int], rank: int) -> Topology:
    """The cluster, with half of what a rank's part of a plan over ``members`` takes as the most that it can hold."""
    held = needed_bytes(graph, plan, topology_of(topology, members))[list(members).index(rank)]
    return topology.replace_device(rank, replace(topology.devices[rank], memory_bytes=PROCESS_BYTES + held // 2))


def with_limits(topology: Topology, workers: Iterable[WorkerInfo], own_bytes: int = 0, *, here: bool = False) -> Topology:
    """The cluster, with the limits that the workers state for their memory, and the threads and vectors by which they will
    use it.

    ``own_bytes`` is the master's limit (0: none), and that of all workers where they run ``here``, in its process.
    """
    for rank in (topology.ranks if here else [MASTER]) if own_bytes else ():
        topology = topology.replace_device(rank, replace(topology.devices[rank], memory_bytes=own_bytes))
    for worker in workers:
        if worker.rank in topology.ranks:
            device = topology.devices[worker.rank]
            known = replace(device, vectors=worker.vectors or device.vectors)
            if limit := worker.memory_limit_bytes:
                known = replace(known, memory_bytes=min(limit, device.memory_bytes or limit), threads=worker.threads)
            topology = topology.replace_device(worker.rank, known)
    return topology


def over(members: Iterable[int]) -> str:
    """ "3 workers", "1 worker", "the master alone"."""
    count = sum(1 for rank in members if rank != MASTER)
    return "the master alone" if count == 0 else f"{count} worker{'s' if count > 1 else ''}"


def _workers(ranks: Sequence[int]) -> str:
    return f"worker{'s' if len(ranks) > 1 else ''} {', '.join(str(rank) for rank in ranks)}"


def _was(ranks: Sequence[int]) -> str:
    return "were" if len(ranks) > 1 else "was"


MEMBER_ERRORS = (WorkerLostError, WorkerFailedError, TransportTimeout)
"""The errors that a loss can cause: a peer may report it before the master notices."""
