"""The interface of an executor for Session and Worker."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.executor.mailbox import Mailbox, Messages
from fogconv.cluster.protocol.codec import Frame
from fogconv.errors import InputError
from fogconv.ir import steps as ir
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import Region
from fogconv.ir.memory.footprint import Packing
from fogconv.ir.program import Program
from fogconv.kernels.maps.blocked import Blocked

if TYPE_CHECKING:
    from fogconv.kernels.conv.conv import PreparedConv2d
    from fogconv.kernels.maps.scratch import Scratch
    from fogconv.kernels.quantized.conv import PreparedBytes
    from fogconv.storage.swap_file import SwapFolder


def nothing() -> None:
    """The default of ``meanwhile``: does nothing."""


class Runnable(Protocol):
    """The part of the interpreter's Executable that Session and Worker use."""

    memory_bytes: int

    def run(
        self, mailbox: Mailbox, inputs: Sequence[NDArray[Any]] = (), meanwhile: Callable[[], None] = nothing
    ) -> list[NDArray[Any]]:
        """The outputs (master) in the order of their index. Raises the mailbox's errors. ``meanwhile`` is called before
        each ArrayRecv, whose array has probably not arrived yet; a program without an ArrayRecv never calls it.
        """

    @property
    def times(self) -> NDArray[np.int64]: ...


@runtime_checkable
class Shares(Protocol):
    """An executable whose arrays stay from run to run, and may be shared with other programs'."""

    arrays: Any


@runtime_checkable
class Touches(Protocol):
    """An executable whose maps' memory can be written to before the first run."""

    def touch(self) -> None:
        """Memory that was only ever read is one page of zeros, again and again, which no cache has to fetch."""


@runtime_checkable
class Packed(Protocol):
    """Weights of which some are here as the kernels read them: what an executable is given in the place of plain ones."""

    def find(self, packing: Packing) -> PreparedConv2d | PreparedBytes | None:
        """Weights that are packed already. A program that binds to them keeps them in use."""

    def keep(self, packing: Packing, prepared: PreparedConv2d | PreparedBytes, *, last: bool) -> None:
        """They are packed now. ``last``: no other packing of the same weight will be asked for."""

    @property
    def swap(self) -> SwapFolder:
        """Where packed weights go that the program swaps."""
        ...


class Build(Protocol):
    """The interpreter's constructor, or a test's. ``proceed`` is called before each step, and may raise to end it."""

    def __call__(
        self,
        program: Program,
        weights: Mapping[str, NDArray[np.float32]],
        *,
        threads: int = 1,
        proceed: Callable[[], None] = nothing,
    ) -> Runnable: ...


class Executor(Build, Protocol):
    """Binds a program to this rank's memory and kernels. On the master, ``host`` runs the steps that workers can't
    compute."""

    def __call__(
        self,
        program: Program,
        weights: Mapping[str, NDArray[np.float32]],
        *,
        threads: int = 1,
        host: HostCalls | None = None,
        proceed: Callable[[], None] = nothing,
    ) -> Runnable: ...


Call = Callable[["Run"], None]


class HostCalls(Protocol):
    """The master's torch calls for Host steps: ``layer`` is the index of the graph's layer, ``maps`` are NCHW.

    ``values`` is a dict that belongs to this inference.
    """

    def __call__(self, layer: int, values: dict[Any, Any], maps: Sequence[Array]) -> Sequence[Array]: ...


class Binder(Protocol):
    """The part of an executor that the binding of a step uses. ``wide``: for copies in fp32 of maps of 16 bits."""

    program: Program
    wide: Scratch

    def insert(self, step: ir.Recv) -> Callable[[Frame], None]: ...

    def compute(self, step: ir.AnyStep) -> Callable[[], None]: ...

    def prepare(self, step: ir.Conv) -> PreparedConv2d: ...

    def prepare_bytes(self, step: ir.Conv) -> PreparedBytes: ...

    def view(self, buffer: int, region: Region) -> Blocked: ...

    def around(self, buffer: int, region: Region) -> tuple[Blocked, int]: ...

    def weight(self, key: str) -> Array: ...


@runtime_checkable
class OwnKernels(Protocol):
    """An executor whose kernels are not this package's. ``kernels``: hex digits that differ where its rates may.
    ``whole_maps``: whether it keeps every map as a whole, also where the usual one computes band by band."""

    kernels: str
    whole_maps: bool


class Run:
    """The state of one inference: the mailbox, inputs, outputs, and the values of host layers, with the inputs by their
    numbers."""

    def __init__(self, mailbox: Mailbox, inputs: Sequence[Array], meanwhile: Callable[[], None] = nothing) -> None:
        self.mailbox = mailbox
        self.inputs = inputs
        self.meanwhile = meanwhile
        self.outputs: dict[int, Array] = {}
        self.values: dict[Any, Any] = dict(enumerate(inputs))
        self.ready_ns = 0

    def input(self, index: int) -> Array:
        """Raises InputError for an input that was not given."""
        if index >= len(self.inputs):
            raise InputError(f"the programs take an input {index + 1}, but {len(self.inputs)} were given")
        return self.inputs[index]


LOOK_NS = 100_000_000
"""Between steps, a run that takes long looks so often whether it is still wanted."""


class Joined(Protocol):
    """The calls of some consecutive steps (``count``), all computing."""

    count: int

    def run(self, run: Run, first: int, until_ns: int) -> int | None:
        """Do them from a place on, 0 at first, until the clock is beyond a time. Returns the place to go on from; None where
        all are done."""

    def spans(self, begin_ns: int) -> list[tuple[int, int]]:
        """The clock at the begin and end of each step, the first of which began at ``begin_ns``."""


class BoundSteps:
    """The calls of a program's steps: runs them in order, and keeps their times.

    The usual messages over direct connections are sent, waited for and received by compiled code, too
    (`fogconv.cluster.executor.bands.direct_messages`); Python does the others. The calls of the system take as long from
    Python as from compiled code (`python -m bench.message_floor`): this saves Python's way to them and back, of which
    after a conv each object is far away. So the wait has to be compiled, too: of what sends alone saved, the receive after
    them lost a third or a half again, because it found Python's code as cold.
    """

    def __init__(self, calls: Sequence[Call | Joined], messages: Messages | None = None) -> None:
        # Sorted once: a step of a few microseconds would notice.
        self._calls: list[tuple[Call | None, Joined | None]] = [
            (call, None) if callable(call) else (None, call) for call in calls
        ]
        self._count = sum(1 if callable(call) else call.count for call in calls)
        self._ticks: list[tuple[int, int | Joined]] = []
        self._messages = messages

    def run(self, mailbox: Mailbox, inputs: Sequence[Array], meanwhile: Callable[[], None]) -> list[Array]:
        """See Runnable."""
        messages = self._messages
        if messages is None:
            return self._run(mailbox, inputs, meanwhile)
        try:
            mailbox.open(messages)
            return self._run(mailbox, inputs, meanwhile)
        finally:
            messages.close()

    def _run(self, mailbox: Mailbox, inputs: Sequence[Array], meanwhile: Callable[[], None]) -> list[Array]:
        run = Run(mailbox, inputs, meanwhile)
        clock = time.perf_counter_ns
        ticks: list[tuple[int, int | Joined]] = []
        self._ticks = ticks
        run.ready_ns = now = clock()
        look = now + LOOK_NS
        for call, joined in self._calls:
            if joined is not None:
                # Their times are taken apart when they are asked for: after long compiled code Python's own is in no cache.
                ticks.append((now, joined))
                at = joined.run(run, 0, look)
                while at is not None:
                    mailbox.proceed()
                    look = clock() + LOOK_NS
                    at = joined.run(run, at, look)
                run.ready_ns = now = clock()
                continue
            assert call is not None
            call(run)
            begin = run.ready_ns
            run.ready_ns = now = clock()
            ticks.append((begin, now))
            if now > look:
                mailbox.proceed()
                look = now + LOOK_NS
        return [run.outputs[index] for index in sorted(run.outputs)]

    @property
    def times(self) -> NDArray[np.int64]:
        """(steps, 2): time.perf_counter_ns at the start and end of each step of the last run. A Recv starts when its
        message has arrived, so that waiting is the gap before it.
        """
        ticks: list[int] = []
        for begin, end in self._ticks:
            for span in ((begin, end),) if isinstance(end, int) else end.spans(begin):
                ticks += span
        ticks += [0] * (2 * self._count - len(ticks))
        # An array.array converts a list of integers ten times as fast as NumPy.
        return np.frombuffer(array("q", ticks), np.int64).reshape(-1, 2)
