"""MasterSession: the state of one master's session with this worker, dropped when the master leaves."""

from __future__ import annotations

import hmac
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from fogconv.cluster.compilers.helpers import Helpers
from fogconv.cluster.executor.interface import Runnable
from fogconv.cluster.executor.mailbox import Inbox
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.transport.endpoint import Peer
from fogconv.ir import steps as ir
from fogconv.ir.layout import MASTER
from fogconv.ir.program import Program

SPARE_BYTES = 4 << 20
"""What may wait of runs whose programs are not known here, such as one that was just unloaded."""
MOST_RUNS = 64
"""Runs of one program that may be asked for at once."""
PART_SLACK_BYTES = 1024
"""Checksums, the head of a compressed message, padding between its parts."""


@dataclass(slots=True)
class Loading:
    """A program that waits for weights."""

    request: int
    number: int
    program: Program
    missing: set[str]
    helpers: Helpers
    runs: int = 1


Task = tuple[m.AnyMessage, tuple[Frame, ...]]
"""A task that takes time (a load, a run, a measurement), with its payloads."""


@dataclass
class MasterSession:
    """``term`` names it in the worker's life (`fogconv.cluster.protocol.lifecycle`), which stores whether it is over."""

    peer: Peer
    term: int
    hello: m.Hello
    inbox: Inbox = field(default_factory=Inbox)
    tasks: deque[Task] = field(default_factory=deque)
    addresses: m.Peers = field(default_factory=lambda: m.Peers({}))
    outgoing: dict[int, Peer] = field(default_factory=dict)
    incoming: dict[Peer, int] = field(default_factory=dict)
    loading: list[Loading] = field(default_factory=list)
    programs: dict[int, Runnable] = field(default_factory=dict)
    partners: dict[int, frozenset[int]] = field(default_factory=dict)
    """Of each program, the ranks that it exchanges messages with."""
    received: dict[int, int] = field(default_factory=dict)
    """Of each program, the bytes that come for one run of it,"""
    runs: dict[int, int] = field(default_factory=dict)
    """and how many may be asked for at once."""
    arrays: WeakValueDictionary[str, Any] = field(default_factory=WeakValueDictionary)
    task_bytes: int = 0
    """Of the payloads of waiting tasks."""

    def __post_init__(self) -> None:
        self._bound()

    def add(self, task: Task) -> None:
        """Another task, to be done after those that wait."""
        self.tasks.append(task)
        self.task_bytes += sum(len(payload) for payload in task[1])

    def next(self) -> Task:
        """The task that has waited longest. Raises IndexError where there is none."""
        task = self.tasks.popleft()
        self.task_bytes -= sum(len(payload) for payload in task[1])
        return task

    def adopt(self, loading: Loading, executable: Runnable) -> None:
        """A program is ready, and its runs may begin."""
        self.programs[loading.number] = executable
        self.partners[loading.number] = loading.program.peers
        self.received[loading.number] = received_bytes(loading.program)
        self.runs[loading.number] = min(loading.runs, MOST_RUNS)
        self._bound()

    def rank_of(self, peer: Peer) -> int | None:
        """The rank at the other end of a link, if it is one of this session's."""
        return MASTER if peer == self.peer else self.incoming.get(peer)

    def attach(self, peer: Peer, message: m.Attach, credential: str | None) -> bool:
        """Another worker opened a link to this one; whether it is one of this session's.

        It shows the session's token and, where the transport proves keys (``credential``), the key that the master named for
        its rank. No peer can attach as the master, whose link is the one that greeted, or as this worker itself.
        """
        if not hmac.compare_digest(message.session, self.hello.session):
            return False
        if message.rank in (MASTER, self.hello.rank) or message.rank >= self.hello.ranks:
            return False
        if self.addresses.keys.get(message.rank) != credential:
            return False
        self.incoming[peer] = message.rank
        return True

    def unload(self, number: int) -> None:
        self.programs.pop(number, None)
        self.partners.pop(number, None)
        self.received.pop(number, None)
        self.runs.pop(number, None)
        self._bound()

    def _bound(self) -> None:
        """Data of all runs of each program that are asked for can wait, and of one that was given up."""
        waiting = sum(n_bytes * (1 + self.runs[number]) for number, n_bytes in self.received.items())
        self.inbox.most_bytes = SPARE_BYTES + waiting


def received_bytes(program: Program) -> int:
    """The bytes of all messages that a program may receive in one run, as fp32."""
    total = 0
    for step in program.steps:
        match step:
            case ir.Recv():
                total += _message_bytes(step, program.batch)
            case ir.Gather():
                total += sum(_message_bytes(recv, program.batch) for recv in ir.gathers(step))
            case ir.ArrayRecv():
                total += 4 * math.prod(step.shape)
    return total


def _message_bytes(step: ir.Recv, batch: int) -> int:
    parts = (step.region, *(part.region for part in step.more))
    return sum(4 * batch * math.prod(region.shape) + PART_SLACK_BYTES for region in parts)
