"""Rejoining: workers that came back are prepared while inferences go on, and become members when they are ready.

A new process imports its modules, receives its weights and loads its kernels from disk, or compiles them: this takes
seconds, on a small device minutes, while the others go on. Its programs are unloaded again, as in a rehearsal, because
its memory is for one program.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from fogconv.cluster.session.session import Session
from fogconv.errors import WorkerLostError
from fogconv.runtime.plan_cache import CompiledPlan


class Rejoining:
    """The workers that are being prepared. One thread calls ``begin`` and ``finished``."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._under_way: dict[int, Future[None]] = {}

    @property
    def ranks(self) -> frozenset[int]:
        """The workers that are not ready yet, or not yet returned by ``finished``."""
        return frozenset(self._under_way)

    @property
    def any_done(self) -> bool:
        return any(future.done() for future in self._under_way.values())

    def begin(self, rank: int, plays: Callable[[], Iterable[CompiledPlan]]) -> None:
        """Load this worker's part of each play. ``plays`` is called in another thread."""
        future = self._under_way[rank] = Future()
        threading.Thread(target=self._warm, args=(rank, plays, future), name=f"fogconv-warm-{rank}", daemon=True).start()

    def finished(self) -> tuple[frozenset[int], tuple[str, ...]]:
        """The workers that are ready, and messages about those that can't be; both are removed from ``ranks``. A worker
        that was lost again is in neither; call ``begin`` when it comes back.
        """
        ready, events = set(), []
        for rank in sorted(rank for rank, future in self._under_way.items() if future.done()):
            error = self._under_way.pop(rank).exception()
            if error is None:
                ready.add(rank)
            elif not isinstance(error, WorkerLostError):
                events.append(f"worker {rank} came back, but can't take part: {error}")
        return frozenset(ready), tuple(events)

    def _warm(self, rank: int, plays: Callable[[], Iterable[CompiledPlan]], future: Future[None]) -> None:
        try:
            self._session.acquaint(rank)
            for lane in (lane for play in plays() for lane in play.lanes):
                program = [program for program in lane.programs if program.rank == rank]
                self._session.unload(self._session.load(program, lane.weights))
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)
