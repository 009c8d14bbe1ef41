"""What a message costs the processor, against the least that the kernel takes for it: bare sockets, in Python and compiled.

    python -m bench.message_floor [--size 64] [--size 16384] [--rounds 120] [--json]

Each round is one message to another process on this machine and one back; the time is that of all threads of this end's
process, halved: one message, sent or received. Cold: 32 MB are copied before, as convs between two messages displace
everything else from the caches. Lower quartiles of the rounds, because other programs only ever add. In µs:

    python     send, poll and recv_into of Python's standard library
    compiled   the same three calls of libc, by code that numba compiled
    zmq        a Send step and a Recv step of a program, with all that the interpreter and ZeroMQ's transport do around them,
               and the Input step from which the message is made
    curve      the same over an encrypted link
    mpi        the same over MPI, under an mpirun of its own; waiting is in it, for MPI is polled

What separates "python" from "compiled" is what steps would gain that compiled code walks between messages. What separates
the others from these is all that fogconv adds to the kernel's own path.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numba
import numpy as np
import typer

from bench.overhead import PIECE, cluster, star_programs
from fogconv.calibration.links import COLD_BYTES
from fogconv.cluster.connect import connect
from fogconv.cluster.executor.interface import Runnable, nothing
from fogconv.cluster.executor.mailbox import Mailbox
from fogconv.cluster.session.session import Session
from fogconv.cluster.transport.mpi.launch import launched
from fogconv.ir import steps as ir
from fogconv.ir.geometry import BYTES_PER_ELEMENT, Region
from fogconv.ir.program import Program

ENDS = 2
"""Messages of a round: one sent, one received."""
REST_S = 5e-4
"""Before each round, so that the other end sleeps as it does in a run."""
WARM_UP = 5
PATIENCE_MS = 10_000
HEADER_BYTES = 32
"""About as long as what stands before a payload."""
FAMILIES = ("python", "compiled", "zmq", "curve", "mpi")


class Caches:
    """Either as a conv leaves them, or as they are."""

    def __init__(self) -> None:
        self._source, self._target = np.ones(COLD_BYTES, np.uint8), np.zeros(COLD_BYTES, np.uint8)

    def prepare(self, cold: bool) -> None:
        if cold:
            np.copyto(self._target, self._source)
        time.sleep(REST_S)


class Rounds(Sequence[Any]):
    """A run's one input, which a step reads before each message that is sent. It makes the caches cold then, so that a round
    is from one such step to the next: compiled code may send and receive the messages between them."""

    def __init__(self, x: Any, caches: Caches, cold: bool) -> None:
        self._x, self._caches, self._cold = x, caches, cold
        self._began = 0
        self.spent_ns: list[int] = []

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Any]:
        return iter([self._x])

    def __getitem__(self, index: Any) -> Any:
        if self._began:
            self.spent_ns.append(time.process_time_ns() - self._began)
        self._caches.prepare(self._cold)
        self._began = time.process_time_ns()
        return self._x


class TimedProgram:
    """A program whose runs have `Rounds` as their input."""

    def __init__(self, inner: Runnable, caches: Caches) -> None:
        self._inner, self._caches = inner, caches
        self.cold = False
        self.spent_ns: list[int] = []

    def run(self, mailbox: Mailbox, inputs: Sequence[Any] = (), meanwhile: Callable[[], None] = nothing) -> list[Any]:
        rounds = Rounds(inputs[0], self._caches, self.cold)
        outputs = self._inner.run(mailbox, rounds, meanwhile)
        self.spent_ns = rounds.spent_ns
        return outputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def programs(rounds: int, piece: Region) -> list[Program]:
    """The star's for one worker, with an Input before each message of the master."""
    master, *others = star_programs(rounds, 1, piece)
    steps = [each for step in master.steps for each in ((master.steps[0], step) if isinstance(step, ir.Send) else (step,))]
    return [msgspec.structs.replace(master, steps=tuple(steps[1:])), *others]


def of_session(session: Session, size: int, rounds: int, caches: Caches) -> dict[str, float]:
    """µs per message of a program that sends to one worker and receives from it, layer after layer."""
    piece = Region.whole(PIECE.shape[0], 1, max(1, size // (BYTES_PER_ELEMENT * PIECE.shape[0])))
    loaded = session.load(programs(rounds + 1, piece), {})
    assert loaded.executable is not None
    timed = loaded.executable = TimedProgram(loaded.executable, caches)
    x = np.ones((1, *piece.shape), np.float32)
    found: dict[str, float] = {}
    for cold in (False, False, True):  # the first one opens the direct connection
        timed.cold = cold
        session.run(loaded, [x])
        found["cold" if cold else "warm"] = per_end(timed.spent_ns)
    session.unload(loaded)
    return found


def per_end(spent_ns: Sequence[int]) -> float:
    return statistics.quantiles(spent_ns[WARM_UP:], n=4)[0] / ENDS / 1e3


@contextlib.contextmanager
def echo(size: int) -> Iterator[socket.socket]:
    """A connection to a process that sends back what it gets, ``size`` bytes at a time."""
    program = (
        "import socket, sys\n"
        "peer = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)\n"
        "data, size = bytearray(int(sys.argv[2])), int(sys.argv[2])\n"
        "while True:\n"
        "    got = 0\n"
        "    while got < size:\n"
        "        more = peer.recv_into(memoryview(data)[got:])\n"
        "        if not more: sys.exit()\n"
        "        got += more\n"
        "    peer.sendall(data)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        child = subprocess.Popen([sys.executable, "-I", "-S", "-c", program, port, str(size)])
        try:
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                yield connection
        finally:
            child.wait(PATIENCE_MS / 1e3)


def python_round(connection: socket.socket, size: int) -> Callable[[], None]:
    out, back, poller = memoryview(bytearray(size)), memoryview(bytearray(size)), select.poll()
    poller.register(connection.fileno(), select.POLLIN)

    def play() -> None:
        connection.send(out)
        got = 0
        while got < size:
            poller.poll(PATIENCE_MS)
            got += connection.recv_into(back[got:])

    return play


def compiled_round(connection: socket.socket, size: int) -> Callable[[], None]:
    libc = ctypes.CDLL(None)
    number, long, place = ctypes.c_int, ctypes.c_ssize_t, ctypes.c_void_p
    send, recv, poll = libc.send, libc.recv, libc.poll
    for call in (send, recv):
        call.restype, call.argtypes = long, (number, place, long, number)
    poll.restype, poll.argtypes = number, (place, ctypes.c_ulong, number)

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]
    def play(fd: int, out: Any, back: Any, watched: Any, size: int) -> int:
        send(fd, out.ctypes.data, size, 0)
        got = 0
        while got < size:
            poll(watched.ctypes.data, 1, PATIENCE_MS)
            more = recv(fd, back.ctypes.data + got, size - got, 0)
            if more <= 0:
                return -1
            got += more
        return got

    out, back = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    fd = connection.fileno()
    watched = np.array([fd, select.POLLIN], np.int32)  # a struct pollfd: the events are its next two bytes

    def turn() -> None:
        if play(fd, out, back, watched, size) != size:
            raise ConnectionError("the other end closed the connection")

    return turn


def of_sockets(size: int, rounds: int, caches: Caches) -> dict[str, dict[str, float]]:
    """µs per message over bare sockets, in turns."""
    found: dict[str, dict[str, float]] = {"python": {}, "compiled": {}}
    with echo(size + HEADER_BYTES) as connection:
        ways = {
            "python": python_round(connection, size + HEADER_BYTES),
            "compiled": compiled_round(connection, size + HEADER_BYTES),
        }
        for cold in (False, True):
            spent: dict[str, list[int]] = {way: [] for way in ways}
            for _ in range(rounds):
                for way, play in ways.items():
                    caches.prepare(cold)
                    begin = time.process_time_ns()
                    play()
                    spent[way].append(time.process_time_ns() - begin)
            for way, each in spent.items():
                found[way]["cold" if cold else "warm"] = per_end(each)
        connection.shutdown(socket.SHUT_WR)
    return found


def of_mpi(size: int, rounds: int) -> dict[str, float]:
    """`of_session` in an mpirun of two ranks."""
    mpirun = Path(sys.executable).parent / "mpirun"
    command = [str(mpirun), "-n", "2", sys.executable, "-m", "bench.message_floor", "--size", str(size)]
    done = subprocess.run([*command, "--rounds", str(rounds)], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(size: int, rounds: int, families: Sequence[str]) -> dict[str, dict[str, float]]:
    caches = Caches()
    found = of_sockets(size, rounds, caches)
    for transport in ("zmq", "curve"):
        if transport in families:
            with cluster(transport, 1) as session:
                found[transport] = of_session(session, size, rounds, caches)
    if "mpi" in families:
        found["mpi"] = of_mpi(size, rounds)
    return found


def main(
    size: Annotated[list[int] | None, typer.Option(min=64, help="Bytes of a payload; several times.")] = None,
    rounds: Annotated[int, typer.Option(min=2 * WARM_UP)] = 120,
    without: Annotated[list[str] | None, typer.Option(help="A transport to leave out: zmq, curve or mpi.")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    sizes = size or [64, 16 << 10]
    if launched() is not None:
        with connect("mpi://") as session:
            found = of_session(session, sizes[0], rounds, Caches())
        print(json.dumps(found))
        return
    families = [family for family in FAMILIES if family not in (without or ())]
    results = {number: measure(number, rounds, families) for number in sizes}
    if as_json:
        print(json.dumps(results))
        return
    for number, each in results.items():
        print(f"{number} bytes, us of the processor per message, sent or received")
        for family, took in each.items():
            print(f"  {family:10}{took['warm']:8.1f} warm {took['cold']:8.1f} cold")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    typer.run(main)
