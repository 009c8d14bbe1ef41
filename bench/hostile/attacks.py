"""Attacks: what strangers, peers and masters gone bad do to a worker. One more function in ATTACKS is one attack more.

An attack runs in a process of its own until its time is over; what the victim does about it is its own business, so that a
connection that is cut is opened again.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np

from bench.hostile.wedges import WEDGES
from bench.hostile.zmtp import GREETING, Stranger, frame, head, silent
from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.transport.zeromq.chunking import PART_BYTES
from fogconv.cluster.transport.zeromq.endpoint import ZeromqEndpoint
from fogconv.errors import FogconvError
from fogconv.ir import steps as ir
from fogconv.ir.geometry import Region
from fogconv.ir.program import Program, encode

MEGABYTE = 1 << 20
CONNECTIONS = 1500
STRANGERS = 5
DECLARED_BYTES = 300 * MEGABYTE
RUN_TO_COME = 1 << 40
RANK = 2
"""The victim is rank 1; the peer gone bad is, or says that it is, this one."""
SILENT_NAME = ".test:5555"
"""The end of an address whose host's name no server resolves."""
BREATH_S = 0.01
"""Between two tries: it is the worker that is measured, and not who gets the cores."""


@dataclass(frozen=True, slots=True)
class Victim:
    """``address``: a worker in the honest master's session, which has that ``token``. ``spare``: one
    that no master uses."""

    address: str
    spare: str
    token: bytes
    until: float
    """The end, by time.monotonic()."""

    @property
    def left_s(self) -> float:
        return max(0.0, self.until - time.monotonic())


@dataclass(frozen=True, slots=True)
class Attack:
    """``plain``: it can't get so far against keys. ``cases``: the number of its variants; with none it is left out.
    ``names``: it is about names that no server resolves, which the honest master dials as well."""

    name: str
    strike: Callable[[Victim], None]
    plain: bool = False
    cases: int = 1
    names: bool = False


def silent_connections(victim: Victim) -> None:
    """1,500 connections that never say a word."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    connections = silent(victim.address, CONNECTIONS)
    time.sleep(victim.left_s)
    for connection in connections:
        connection.close()


def half_greetings(victim: Victim) -> None:
    """Connections that stop in the middle of the greeting, hang up, and come again."""
    while victim.left_s:
        connections = silent(victim.address, 100)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.sendall(GREETING[:20])
        time.sleep(BREATH_S)
        for connection in connections:
            connection.close()


def endless_multiparts(victim: Victim) -> None:
    """Messages whose frames all say that more come."""
    for strangers in _crowds(victim):
        for stranger in strangers:
            stranger.flood(frame(bytes(8000), more=True) * 8, 200 * MEGABYTE)


def declared_payloads(victim: Victim) -> None:
    """Five strangers declare payloads of 300 MB, and send them in the parts in which long payloads travel."""
    header = bytes(codec.encode(m.Data(1, 1), bytes(DECLARED_BYTES))[0])
    begin = frame(header, more=True) + frame(bytes(PART_BYTES))
    part = frame(b"", more=True) + frame(bytes(PART_BYTES))
    for strangers in _crowds(victim):
        for stranger in strangers:
            with contextlib.suppress(OSError):
                stranger.socket.sendall(begin)
            stranger.flood(part, DECLARED_BYTES)


def declared_frames(victim: Victim) -> None:
    """Frames of 3 MB are declared, and all but their ends sent."""
    for strangers in _crowds(victim):
        for stranger in strangers:
            stranger.flood(head(3 * MEGABYTE) + bytes(3 * MEGABYTE - 1), 3 * MEGABYTE)


def resets_with_unread_messages(victim: Victim) -> None:
    """Thousands of tiny messages, and a reset before they can be read."""
    while victim.left_s:
        with contextlib.suppress(OSError), Stranger(victim.address) as stranger:
            stranger.socket.sendall(frame(b"12345") * 9000)
            stranger.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        time.sleep(BREATH_S)


def data_of_strangers(victim: Victim) -> None:
    """Data for runs to come, from unknown peers."""
    for stranger in _one_by_one(victim):
        _send_early(victim, stranger)


def data_of_a_peer(victim: Victim) -> None:
    """900 MB of Data for runs to come, of a worker of the session that has gone bad."""
    for stranger in _one_by_one(victim):
        stranger.say(*_frames(m.Attach(victim.token, RANK)))
        time.sleep(0.5)  # it is attached when its Attach has been answered
        _send_early(victim, stranger)


def a_false_master(victim: Victim) -> None:
    """A worker of the session attaches as the master, and sends and aborts in its name."""
    for stranger in _one_by_one(victim):
        with contextlib.suppress(OSError):
            stranger.say(*_frames(m.Attach(victim.token, 0)))
            for run in range(200):
                stranger.say(*_frames(m.Data(run, run), bytes(1000)))
                stranger.say(*_frames(m.Abort(run)))
        time.sleep(BREATH_S)


def wedging_programs(victim: Victim) -> None:
    """A master sends the spare worker programs that should be refused, each in a session that is left at once."""
    from fogconv.cluster.connect import connect

    for wedge in WEDGES:
        with contextlib.suppress(FogconvError), connect(victim.spare, timeout_s=5.0, connect_timeout_s=20.0) as session:
            session.load(*wedge())


def nothing(victim: Victim) -> None:
    """For comparison: as long, without an attack. What is extra here is this machine's."""
    time.sleep(victim.left_s)


def silent_name_server(victim: Victim) -> None:
    """A master of the spare worker names peers whose names no server resolves, and has the worker dial them."""
    region = Region.whole(16, 4, 4)
    steps = (ir.Recv(0, 0, region, 2, 1), ir.Send(0, 0, region, 2, 2))
    program = encode(Program(1, 3, 1, ("a peer",), (ir.Buffer("x", region),), steps, {}))
    endpoint = ZeromqEndpoint()
    try:
        worker = endpoint.connect(victim.spare)
        endpoint.send(worker, codec.encode(m.Hello(bytes(16), 1, 3, "silent names", 60.0)))
        for number in count(1):
            endpoint.send(worker, codec.encode(m.Peers({1: victim.spare, 2: f"tcp://peer{number}{SILENT_NAME}"}, {})))
            endpoint.send(worker, codec.encode(m.Load(number, number), program))
            endpoint.send(worker, codec.encode(m.Unload(number)))
            if not victim.left_s:
                break
            endpoint.receive(10 * BREATH_S)
    finally:
        endpoint.close()


ATTACKS: tuple[Attack, ...] = (
    Attack("nothing", nothing),
    Attack("silent connections", silent_connections),
    Attack("half greetings", half_greetings),
    Attack("endless multiparts", endless_multiparts, plain=True),
    Attack("declared payloads", declared_payloads, plain=True),
    Attack("declared frames", declared_frames, plain=True),
    Attack("resets with unread messages", resets_with_unread_messages, plain=True),
    Attack("data of strangers", data_of_strangers, plain=True),
    Attack("data of a peer", data_of_a_peer, plain=True),
    Attack("a false master", a_false_master, plain=True),
    Attack("wedging programs", wedging_programs, plain=True, cases=len(WEDGES)),
    Attack("silent name server", silent_name_server, plain=True, names=True),
)


def check(address: str) -> bool:
    """Whether a worker serves a master rightly: it sends back what it was sent."""
    from fogconv.cluster.connect import connect

    region = Region.whole(16, 4, 4)
    buffers = (ir.Buffer("x", region),)
    master = (
        ir.Input(0, 0, 0, region),
        ir.Send(0, 0, region, 1, 1),
        ir.Recv(0, 0, region, 1, 2),
        ir.Output(0, 0, 0, region),
    )
    worker = (ir.Recv(0, 0, region, 0, 1), ir.Send(0, 0, region, 0, 2))
    programs = [Program(rank, 2, 1, ("there and back",), buffers, steps, {}) for rank, steps in enumerate((master, worker))]
    image = np.random.default_rng(1).standard_normal((1, 16, 4, 4), np.float32)
    try:
        with connect(address, timeout_s=20.0, connect_timeout_s=20.0) as session:
            return np.array_equal(session.run(session.load(programs, {}), [image]).outputs[0], image)
    except FogconvError:
        return False


def _crowds(victim: Victim) -> Iterator[list[Stranger]]:
    """Five strangers at a time, until the time is over."""
    while victim.left_s:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            yield [stack.enter_context(Stranger(victim.address)) for _ in range(STRANGERS)]
        time.sleep(BREATH_S)


def _one_by_one(victim: Victim) -> Iterator[Stranger]:
    while victim.left_s:
        with contextlib.suppress(OSError), Stranger(victim.address) as stranger:
            yield stranger
        time.sleep(BREATH_S)


def _frames(message: m.AnyMessage, *payloads: bytes) -> list[bytes]:
    return [bytes(part) for part in codec.encode(message, *payloads)]


def _send_early(victim: Victim, stranger: Stranger) -> None:
    payload = bytes(PART_BYTES)
    with contextlib.suppress(OSError):
        for number in range(900 * MEGABYTE // PART_BYTES):
            if not victim.left_s:
                return
            stranger.say(*_frames(m.Data(RUN_TO_COME + number, 1), payload))
