"""Loaded: programs that are ready on all ranks, the progress of loading, and the result of a run."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.executor.interface import Runnable
from fogconv.ir.layout import MASTER
from fogconv.ir.program import Program


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of loading, over all workers. ``ready`` counts workers whose kernels are compiled."""

    shipped_bytes: int
    total_bytes: int
    ready: int
    workers: int


@dataclass(eq=False)
class Loaded:
    """Programs that are ready to run. ``shipped_bytes``: the bytes of weights sent, per rank. ``program`` is their number on
    the workers, which several may have in common: their runs are done one after the other there."""

    number: int
    program: int
    programs: dict[int, Program] = field(repr=False)
    executable: Runnable | None = field(repr=False)
    shipped_bytes: dict[int, int]
    program_bytes: dict[int, int]
    expendable: frozenset[int] = frozenset()
    """The ranks without whose messages a run can end."""
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def ranks(self) -> frozenset[int]:
        """The workers that take part."""
        return frozenset(self.programs) - {MASTER}


@dataclass(frozen=True)
class RunResult:
    """``latency_s`` is from the call to the outputs. ``times``: per rank (steps, 2) ns on the master's perf_counter_ns."""

    run: int
    outputs: list[NDArray[Any]]
    begin_ns: int
    latency_s: float
    times: dict[int, NDArray[np.int64]]
    sent_bytes: dict[int, int]
    received_bytes: dict[int, int]
    events: tuple[str, ...] = ()
    """Faults in this run that were handled."""
