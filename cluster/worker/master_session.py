"""MasterSession: the state of one master's session with this worker, dropped when the master leaves."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from fogconv.cluster.executor.interface import Runnable
from fogconv.cluster.executor.mailbox import Inbox
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.transport.endpoint import Peer
from fogconv.ir import program as ir
from fogconv.ir.layout import MASTER


@dataclass(slots=True)
class Loading:
    """A program that waits for weights."""

    request: int
    number: int
    program: ir.Program
    missing: set[str]


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
    arrays: WeakValueDictionary[str, Any] = field(default_factory=WeakValueDictionary)

    def rank_of(self, peer: Peer) -> int | None:
        """The rank at the other end of a link, if it is one of this session's."""
        return MASTER if peer == self.peer else self.incoming.get(peer)

    def attach(self, peer: Peer, message: m.Attach, credential: str | None) -> None:
        """Another worker opened a link to this one. Where the master named keys, it must have proven the key of its
        rank."""
        key = self.addresses.keys.get(message.rank)
        if message.session == self.hello.session and key in (None, credential):
            self.incoming[peer] = message.rank

    def unload(self, number: int) -> None:
        self.programs.pop(number, None)
        self.partners.pop(number, None)
