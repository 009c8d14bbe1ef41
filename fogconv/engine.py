"""Engine: one model on one cluster, from graph to output. The master's loop of the whole tool.

    session   the workers            topology  how fast they are
    graph     the model              plan      who does what
    loaded    the programs, on every rank, ready to run

A lost worker costs a new plan: the inference is run again from its input on those that are left, so that its answer is the
same. What happened is told in ``Inference.events``.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.session import Loaded, Progress, RunResult, Session
from fogconv.errors import WorkerLostError
from fogconv.layers import Array, Host, LayerGraph
from fogconv.lower import Lowered, lower
from fogconv.plan import Plan
from fogconv.planner import plan
from fogconv.program import Program, Recv, Send, Wire
from fogconv.topology import Topology


@dataclass(frozen=True, slots=True)
class Choices:
    """What the user may choose of a plan; see `fogconv.planner.plan`. A plan given is taken while all its ranks live."""

    scheme: str = "auto"
    trigger: str = "both"
    threshold: float = 1.0
    master_computes: bool = True
    even: bool = False
    wire: Wire = "fp32"
    plan: Plan | None = None


@dataclass(frozen=True)
class Inference:
    """``output`` has the model's own shape, ``run`` every step's times; ``events`` tells what went wrong and was mended."""

    output: Array
    latency_s: float
    run: RunResult
    events: tuple[str, ...] = ()


@dataclass
class Engine:
    """``ranks[i]`` is the session's rank of the plan's i-th; after a loss there are fewer. Not thread-safe."""

    graph: LayerGraph
    session: Session
    topology: Topology
    choices: Choices = field(default_factory=Choices)
    progress: Callable[[Progress], None] | None = None

    def __post_init__(self) -> None:
        self.ranks: tuple[int, ...] = tuple(
            rank for rank in self.topology.ranks if rank == 0 or rank not in self.session.lost
        )
        self.plan: Plan
        self.programs: tuple[Program, ...]
        self.loaded: Loaded
        self._place()

    def run(self, x: Array) -> Inference:
        """One inference of (N, 3, H, W) float32. Raises what the cluster raises, but for lost workers."""
        events: list[str] = []
        begin = time.perf_counter()
        while True:
            try:
                run = self.session.run(self.loaded, [x])
                break
            except WorkerLostError as error:
                lost = sorted(self.session.lost & set(self.ranks))
                if not lost:
                    raise
                events.append(f"{error}; replanned over {len(self.ranks) - len(lost) - 1} workers and ran again")
                self._replan(lost)
        return Inference(self._output(run), time.perf_counter() - begin, run, tuple(events))

    def stream(self, frames: Iterable[Array], depth: int = 3) -> Iterator[Array]:
        """The outputs of many inputs, in order, with ``depth`` inferences in flight: throughput instead of latency.

        Each in flight has buffers of its own. A lost worker ends the stream with WorkerLostError.
        """
        weights = self._lowered.weights
        slots = [
            self.loaded,
            *(self.session.load(self.programs, weights, host=self._host) for _ in range(depth - 1)),
        ]
        waiting: deque[Future[RunResult]] = deque()
        try:
            for number, frame in enumerate(frames):
                if len(waiting) == depth:
                    yield self._output(waiting.popleft().result())
                waiting.append(self.session.submit(slots[number % depth], [frame]))
            while waiting:
                yield self._output(waiting.popleft().result())
        finally:
            for slot in slots[1:]:
                self.session.unload(slot)

    def close(self) -> None:
        self.session.unload(self.loaded)

    def _output(self, run: RunResult) -> Array:
        return np.asarray(run.outputs[0], np.float32).reshape(self.graph.output_shape)

    def _replan(self, lost: Sequence[int]) -> None:
        self.session.unload(self.loaded)
        self.ranks = tuple(rank for rank in self.ranks if rank not in lost)
        self._place()

    def _place(self) -> None:
        """Plan for the ranks that live, write their programs, load them."""
        choices = self.choices
        if choices.plan is not None and choices.plan.ranks == len(self.ranks):
            self.plan = choices.plan
        else:
            self.plan = plan(
                self.graph,
                self.topology.subset(self.ranks),
                scheme=choices.scheme,
                wire=choices.wire,
                trigger=choices.trigger,
                threshold=choices.threshold,
                master_computes=choices.master_computes,
            )
        self._lowered: Lowered = lower(self.graph, self.plan)
        self.programs = tuple(renumber(program, self.ranks) for program in self._lowered.programs)
        self.loaded = self.session.load(self.programs, self._lowered.weights, host=self._host, progress=self.progress)

    def _host(self, layer: int, values: dict[Any, Any], maps: Sequence[NDArray[np.float32]]) -> Sequence[Array]:
        found = self.graph.layers[layer]
        assert isinstance(found, Host)
        return found.call(values, *maps)


def renumber(program: Program, ranks: Sequence[int]) -> Program:
    """The program of a plan over ``ranks`` of a larger session: rank i of the plan is rank ``ranks[i]`` there."""
    if all(i == rank for i, rank in enumerate(ranks)):
        return program
    steps = tuple(
        msgspec.structs.replace(step, to=ranks[step.to])
        if isinstance(step, Send)
        else msgspec.structs.replace(step, origin=ranks[step.origin])
        if isinstance(step, Recv)
        else step
        for step in program.steps
    )
    return msgspec.structs.replace(program, rank=ranks[program.rank], ranks=max(ranks) + 1, steps=steps)
