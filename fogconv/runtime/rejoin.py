"""Rejoining: workers that came back are made ready beside the inferences, and enter the members when they are.

A new process imports, is sent its weights and takes its kernels from the disk, or compiles them: seconds, on a small device
minutes, in which the others go on. What it loaded is unloaded again, as in a rehearsal: its memory is for one program.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from fogconv.cluster.session.session import Session
from fogconv.errors import WorkerLostError
from fogconv.runtime.plan_cache import CompiledPlan


class Rejoining:
    """Who is being made ready. ``begin`` and ``finished`` are called by one thread."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._under_way: dict[int, Future[None]] = {}

    @property
    def ranks(self) -> frozenset[int]:
        """Who is not ready yet, or has not been asked for by ``finished``."""
        return frozenset(self._under_way)

    @property
    def any_done(self) -> bool:
        return any(future.done() for future in self._under_way.values())

    def begin(self, rank: int, plays: Callable[[], Iterable[CompiledPlan]]) -> None:
        """Load this worker's part of each play. ``plays`` is called in another thread."""
        future = self._under_way[rank] = Future()
        threading.Thread(target=self._warm, args=(rank, plays, future), name=f"fogconv-warm-{rank}", daemon=True).start()

    def finished(self) -> tuple[frozenset[int], tuple[str, ...]]:
        """Who is ready, and sentences about who never will be: neither is under way any more.

        Who was lost again is neither; ``begin`` is called anew when it comes back.
        """
        ready, told = set(), []
        for rank in sorted(rank for rank, future in self._under_way.items() if future.done()):
            error = self._under_way.pop(rank).exception()
            if error is None:
                ready.add(rank)
            elif not isinstance(error, WorkerLostError):
                told.append(f"worker {rank} came back, but can't take part: {error}")
        return frozenset(ready), tuple(told)

    def _warm(self, rank: int, plays: Callable[[], Iterable[CompiledPlan]], future: Future[None]) -> None:
        try:
            self._session.acquaint(rank)
            for play in plays():
                program = [program for program in play.programs if program.rank == rank]
                self._session.unload(self._session.load(program, play.weights))
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)
