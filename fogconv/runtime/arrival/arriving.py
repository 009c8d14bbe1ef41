"""Arriving: weights are sent in increments, in a thread, while inferences run on what has landed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fogconv.cluster.session.loaded_program import Loaded, Progress
from fogconv.cluster.session.session import Session
from fogconv.errors import FogconvError, WorkerLostError
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layout import MASTER
from fogconv.ir.steps import Send
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.runtime.arrival.increments import Increment, increments
from fogconv.runtime.membership import topology_of
from fogconv.runtime.plan_cache import CompiledPlan, renumber

PASS_S = 0.5
"""A message waits so long, at most, for weights on their way: see the transports' pace."""

Ready = tuple[CompiledPlan, Loaded]


class Arriving:
    """The programs of each increment, loaded one after the other. One thread calls ``choose`` and ``close``.

    Each message of an inference passes between the parts of the weights, and waits for those that are on their way. Where
    the master alone is done sooner, it does all.
    """

    def __init__(
        self,
        session: Session,
        graph: LayerGraph,
        topology: Topology,
        options: PlanOptions,
        members: Sequence[int],
        host: Callable[..., Any],
    ) -> None:
        """Plans and loads the first increment, which needs no weights on the workers. Raises what `increments` raises."""
        self._session, self._graph, self._host = session, graph, host
        self._members = tuple(members)
        self._topology = topology_of(topology, self._members)
        self._increments = increments(graph, self._topology, options)
        self._lock = threading.Lock()
        self._left_bytes = 0
        self._landed: list[Ready] = [self._loaded(next(self._increments))]
        self._stopped = False
        self._failure: FogconvError | None = None
        self._thread = threading.Thread(target=self._send, name="fogconv-arrival", daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether no more weights will land: all are there, or the rest can't be sent."""
        return not self._thread.is_alive()

    def wait(self) -> None:
        """Until no more weights will land."""
        self._thread.join()

    def choose(self) -> tuple[Ready, tuple[str, ...]]:
        """What the next inference runs, and messages about what has landed since the last call. Unloads what no inference
        will run any more; where ``over`` was true before, what is left is the last plan."""
        over = self.over
        with self._lock:
            home, newest = self._landed[0], self._landed[-1]
            between, self._landed = self._landed[1:-1], [home, newest] if newest is not home else [home]
            left_s = 0.0 if over else self._left_bytes * self._slowest_s_per_byte()
        events: tuple[str, ...] = ()
        for _, loaded in between:
            self._session.unload(loaded)
        if over:
            if newest is not home:
                self._session.unload(home[1])
                self._landed = [newest]
            failure, self._failure = self._failure, None
            if failure is not None and not isinstance(failure, WorkerLostError):
                events = (f"the rest of the weights could not be sent ({failure}); it goes on with those that were",)
            return newest, events
        alone_s, shared_s = (each[0].plan.predicted_s or 0.0 for each in (home, newest))
        masters = [step for program in newest[0].programs if program.rank == MASTER for step in program.steps]
        wait_s = min(left_s, PASS_S * sum(isinstance(step, Send) for step in masters))
        return (home if alone_s <= shared_s + wait_s else newest), events

    def close(self, keep: Loaded) -> None:
        """Send no more after the increment that is on its way, and let go of all programs but these."""
        with self._lock:
            self._stopped = True
            landed, self._landed = self._landed, []
        for _, loaded in landed:
            if loaded is not keep:
                self._session.unload(loaded)

    def _slowest_s_per_byte(self) -> float:
        return max((self._topology.link(MASTER, rank).s_per_byte for rank in self._topology.workers), default=0.0)

    def _send(self) -> None:
        try:
            for increment in self._increments:  # the next ones are planned here, too: on a slow device it takes a while
                ready = self._loaded(increment)
                with self._lock:
                    if not self._stopped:
                        self._landed.append(ready)
                    self._left_bytes = 0
                if self._stopped:
                    self._session.unload(ready[1])
                    break
        except FogconvError as error:  # a lost worker is the engine's to handle; any other has no room for more
            self._failure = error

    def _loaded(self, increment: Increment) -> Ready:
        lowered = lower(self._graph, increment.plan)
        programs = tuple(renumber(program, self._members) for program in lowered.programs)
        weights: Mapping[str, Any] = lowered.weights
        play = CompiledPlan(increment.plan, programs, weights)
        return play, self._session.load(programs, weights, host=self._host, progress=self._progress, behind=True)

    def _progress(self, progress: Progress) -> None:
        with self._lock:
            self._left_bytes = progress.total_bytes - progress.shipped_bytes
