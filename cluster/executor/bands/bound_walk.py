"""Walks: consecutive steps of a program, bound band by band. See `fogconv.ir.memory.bands`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.executor.interface import Binder, Run
from fogconv.cluster.protocol.codec import Frame
from fogconv.ir import steps
from fogconv.ir.arrays import Array
from fogconv.ir.geometry import Region
from fogconv.ir.memory.bands import Walk
from fogconv.kernels.conv.conv import PreparedConv2d
from fogconv.kernels.maps.blocked import Blocked
from fogconv.kernels.maps.bound import Bound
from fogconv.kernels.quantized.conv import PreparedBytes
from fogconv.kernels.threads import parallel
from fogconv.kernels.walk import bind_walk

Compute = Callable[[Binder, steps.AnyStep], Bound]


def idle(run: Run) -> None:
    """The call of a step that a walk does with an earlier one."""


class BoundWalk:
    """All steps of a walk as one call."""

    def __init__(self, walk: Walk, binder: Binder, compute: Compute, proceed: Callable[[], None]) -> None:
        self._first, self._count = walk.first, walk.count
        alone = OneThread(binder)
        shares = []
        for share in walk.shares:
            calls = []
            for piece in share:
                proceed()
                calls.append((piece.step - walk.first, compute(alone, piece.part)))
            shares.append(bind_walk(calls, walk.count))
        self.bound = parallel([call for call, _ in shares])
        self._spent = shares[0][1]

    def __call__(self, run: Run) -> None:
        self.bound()

    def share_out(self, times: NDArray[np.int64]) -> None:
        """Give each step of the walk its part of the walk's time, as the first thread spent it."""
        begin, end = times[self._first, 0], times[self._first, 1]
        spent = np.cumsum(self._spent())
        ends = begin + (end - begin) * spent // max(1, spent[-1])
        rows = times[self._first : self._first + self._count]
        rows[:, 1] = ends
        rows[0, 0], rows[1:, 0] = begin, ends[:-1]


class OneThread:
    """A binder whose convs are computed by the thread that calls them."""

    def __init__(self, binder: Binder) -> None:
        self.program, self.wide = binder.program, binder.wide
        self.binder = binder

    def insert(self, step: steps.Recv) -> Callable[[Frame], None]:
        return self.binder.insert(step)

    def compute(self, step: steps.AnyStep) -> Callable[[], None]:
        return self.binder.compute(step)

    def prepare(self, step: steps.Conv) -> PreparedConv2d:
        return self.binder.prepare(step).alone()

    def prepare_bytes(self, step: steps.Conv) -> PreparedBytes:
        return self.binder.prepare_bytes(step).alone()

    def view(self, buffer: int, region: Region) -> Blocked:
        return self.binder.view(buffer, region)

    def around(self, buffer: int, region: Region) -> tuple[Blocked, int]:
        return self.binder.around(buffer, region)

    def weight(self, key: str) -> Array:
        return self.binder.weight(key)
