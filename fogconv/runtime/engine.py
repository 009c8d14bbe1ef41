"""Engine: one model on one cluster, from graph to output. The master's main loop.

    session   the workers            topology  how fast they are
    graph     the model              plan      the division of work
    loaded    the programs, on every rank, ready to run

When a worker is lost, the engine plans again and repeats the inference from its input on the remaining ones, so that the
answer is the same. A worker that comes back is prepared while inferences go on, and takes part from then on.
``Inference.events`` reports what happened.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fogconv.cluster.session.loaded_program import Loaded, Progress, RunResult
from fogconv.cluster.session.session import Session
from fogconv.cluster.worker.system import trim
from fogconv.errors import ClusterError, PlannerError, WorkerLostError, WorkerMemoryError
from fogconv.frontend.ports import Given, Results, arrays_of, named, results_of
from fogconv.guards.protection import without_code
from fogconv.hardware.topology import Topology
from fogconv.ir.arrays import Array
from fogconv.ir.graph import LayerGraph
from fogconv.ir.layers import Host
from fogconv.ir.layout import MASTER
from fogconv.ir.plan import Plan
from fogconv.ir.program import Program
from fogconv.lowering.lower import outline
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import settled
from fogconv.runtime.arrival.arriving import Arriving
from fogconv.runtime.drift import Correction, Observer, Pace, all_slower
from fogconv.runtime.membership import (
    MEMBER_ERRORS,
    MembershipChange,
    after_loss,
    at_first,
    next_members,
    rehearsals,
    topology_of,
    with_less_memory,
    with_limits,
)
from fogconv.runtime.plan_cache import CompiledPlan, PlanCache
from fogconv.runtime.probation import Probation, device_recovered, link_recovered, probe_bytes, restored
from fogconv.runtime.rejoin import Rejoining
from fogconv.runtime.run_options import RunOptions
from fogconv.runtime.stream import stream
from fogconv.simulation.expectation import Expectation

EVENTS_KEPT = 1000
NOTICE_S = 1.0
"""A link between two workers may break because one of them is lost; the master notices that within its heartbeat."""
MOST_BROKEN = 3
"""The broken links between workers after which an inference fails."""


class Lessons(Protocol):
    """Where what inferences find goes: `fogconv.calibration.calibration.Calibration`, which remembers it."""

    @property
    def disturbed(self) -> frozenset[int]: ...
    def learn(self, slow: Mapping[int, float], thin: Mapping[tuple[int, int], float]) -> None: ...


@dataclass(frozen=True)
class Inference:
    """``outputs`` by name, in the model's own shapes and order; ``run`` has every step's times; ``events`` reports losses
    and other faults that were handled. ``plan`` and ``programs`` are those that ran; the engine's may have changed since.
    """

    outputs: Mapping[str, Array]
    latency_s: float
    run: RunResult
    plan: Plan
    programs: tuple[Program, ...]
    events: tuple[str, ...] = ()

    @property
    def output(self) -> Array:
        """The first output."""
        return next(iter(self.outputs.values()))


@dataclass
class Engine:
    """``ranks[i]`` is the session's rank of the plan's i-th (the members); after a loss there are fewer. Not thread-safe.

    ``events`` are the messages of all inferences so far, the latest last.
    """

    graph: LayerGraph
    session: Session
    topology: Topology
    plan_options: PlanOptions = PlanOptions()
    run_options: RunOptions = RunOptions()
    progress: Callable[[Progress], None] | None = None
    lessons: Lessons | None = None

    def __post_init__(self) -> None:
        own = self.run_options.memory_bytes or 0
        self.topology = with_limits(self.topology, self.session.workers, own, here=self.session.scheme == "inproc")
        self.plan_options.check_ranks(len(self.topology))
        self._plans = PlanCache(self.graph, settled(self.plan_options, self.graph, self.topology))
        self._adapts = self.run_options.adapt and self.plan_options.plan is None
        self._rejoining = Rejoining(self.session)
        first = at_first(self.topology.ranks, self._present)
        self.ranks: tuple[int, ...] = first.members
        self.events: deque[str] = deque(first.events, maxlen=EVENTS_KEPT)
        self.events.extend(self._uncoded())
        self._pace = Pace()
        self._correction: Correction | None = None
        self._first = self.topology
        self._corrected: frozenset[int] = frozenset()
        self._probation = Probation()
        self._observer: tuple[CompiledPlan, Topology, Observer] | None = None
        self.lanes: tuple[tuple[Plan, Loaded], ...] = ()
        self._arriving: Arriving | None = None
        self._compiled: CompiledPlan
        while True:
            try:
                if self.run_options.rehearse:
                    self.rehearse()
                self._place_early() if self.run_options.early else self._place()
                break
            except WorkerLostError as error:
                turn = after_loss(self.ranks, self._present, str(error), frames=0)
                if turn is None:
                    raise
                self.ranks = turn.members
                self.events.extend(turn.events)

    def run(self, given: Given) -> Inference:
        """One inference of (N, C, H, W) float32, or of several inputs. Raises the cluster's errors, except for lost
        workers, and InputError for other inputs than the model's."""
        inputs = arrays_of(self.graph, given)
        begin = time.perf_counter()
        events = self.next_members()
        while True:
            try:
                run = self.session.run(self.loaded, inputs)
                break
            except MEMBER_ERRORS as error:
                events += self.recover(error)
        self.watch(run)
        latency_s = time.perf_counter() - begin
        return Inference(self.outputs(run), latency_s, run, self.plan, self.programs, events + run.events)

    def stream(self, frames: Iterable[Given], depth: int | None = None) -> Iterator[Results]:
        """The model's results for many inputs, in order, with at most ``depth`` inferences in flight (None: as many as the
        plan states, or three): throughput instead of latency.

        Each inference in flight has its own buffers. When a worker is lost, the affected inferences are run again: no
        frame is lost or out of order. Where ``frames`` raises, the results of all frames before are given first.
        ``events`` reports what happened.
        """
        return (results_of(self.graph, outputs) for outputs in self.stream_outputs(frames, depth))

    def stream_outputs(self, frames: Iterable[Given], depth: int | None = None) -> Iterator[Mapping[str, Array]]:
        """The same, as outputs by name."""
        self._settle()
        return stream(self, (arrays_of(self.graph, frame) for frame in frames), depth)

    def rehearse(self) -> None:
        """Load the programs for every set of members that losses can leave: a loss then needs no compiling and no weights
        sent.

        Takes as long as loading so many plans; the workers keep the weights as far as their memory limits allow.
        """
        for members in rehearsals(self.ranks):
            self._unload(self._loaded_for(members)[1])

    @property
    def all_there(self) -> bool:
        """Whether no more weights are on their way to the workers."""
        return self._arriving is None or self._arriving.over

    def close(self) -> None:
        if self._arriving is not None:
            self._arriving.close(self.loaded)
        self._unload(loaded for _, loaded in self.lanes)

    def _unload(self, several: Iterable[Loaded]) -> None:
        for loaded in several:
            self.session.unload(loaded)

    # Members

    @property
    def _present(self) -> frozenset[int]:
        return frozenset(info.rank for info in self.session.workers) - self._rejoining.ranks

    def members_change(self) -> bool:
        """Whether a member is lost, or another worker is ready. Does not wait."""
        self.session.refresh()
        for rank in sorted(self.session.rejoin(0.0) & set(self.topology.ranks)):
            self._warm(rank)
        gone = not self._present >= set(self.ranks) - {MASTER}
        due = bool(self._probation.due(time.monotonic()))
        return gone or self._rejoining.any_done or self._correction is not None or due

    def _warm(self, rank: int) -> None:
        """Prepare a worker that came back: for the members with it and, with ``rehearse``, for their losses."""
        book, topology = self._plans, self.topology
        members = tuple(sorted({MASTER, rank, *(self._present & set(self.ranks))}))
        member_sets = [members, *(less for less in rehearsals(members) if self.run_options.rehearse and rank in less)]
        self._rejoining.begin(rank, lambda: (book.play(topology, each) for each in member_sets))

    def next_members(self) -> tuple[str, ...]:
        """Before an inference: plan again if the members have changed. Returns messages about it."""
        arrived = self._arrived()
        if not self.members_change():
            return arrived
        events = arrived + self._ask_again() + self._correct()
        ready, unfit = self._rejoining.finished()
        turn = next_members(self.ranks, self._present, ready)
        if turn.changed or not self._plan_stays():
            return self._turn(MembershipChange(turn.members, True, unfit + events + turn.events))
        # A plan that stays is no news, unless its prediction came from wrong rates.
        same = unfit + (() if self.lessons is None else events)
        self.events.extend(same)
        return same

    def _plan_stays(self) -> bool:
        """Whether the plan that runs is the one by the rates of now, too; if so, it is predicted by them."""
        found = self._plans.plan(self.topology, self.ranks)
        stays = found.same_work(self.plan)
        if stays:
            self._compiled = replace(self._compiled, plan=found)
        return stays

    def watch(self, run: RunResult) -> None:
        """After a run: compare the speed of ranks and links with the plan."""
        self.events.extend(run.events)
        ran = self.loaded.programs
        if (
            not self._adapts
            or self._arriving is not None
            or (len(self.ranks) == 1 and self.lessons is None)
            or set(run.times) != set(ran)
        ):
            return
        if any(len(run.times[rank]) != len(program.steps) for rank, program in ran.items()):
            return  # the run was in flight while a new plan was made
        drift = self._observing().observe(run.times)
        self._pace = self._pace.after(drift)
        self._correction = self._pace.correction(measured=self.lessons is not None)
        slower = None if self.lessons is None else self._pace.all_slower
        if slower is not None and self._correction is None:
            self.events.append(all_slower(slower))
            self._learn(dict.fromkeys((self.ranks[place] for place in drift.compute), slower), {})
        working = {self.ranks[rank] for rank in self.plan.active_ranks}
        self._probation = self._probation.watch((self._corrected & set(self.ranks)) - working, time.monotonic())

    def _observing(self) -> Observer:
        """Of the plan that runs, by the rates of its members; kept until either changes."""
        kept = self._observer
        if kept is None or kept[0] is not self._compiled or kept[1] is not self.topology:
            topology = topology_of(self.topology, self.ranks)
            whole = self.ranks == tuple(topology.ranks)
            expectation = Expectation(self.programs if whole else outline(self.graph, self.plan), topology)
            observer = Observer(self.programs, self.ranks, topology, expectation)
            kept = self._observer = self._compiled, self.topology, observer
        return kept[2]

    def _correct(self) -> tuple[str, ...]:
        """Plan with the measured figures. Returns messages about it."""
        correction, self._correction = self._correction, None
        if correction is None:
            return ()
        self.topology = correction.apply(self.topology, self.ranks)
        self._pace = self._pace.corrected(correction)
        self._corrected |= {self.ranks[place] for place in (*correction.slow, *chain(*correction.thin))} - {MASTER}
        self._learn(correction.ranks(self.ranks), correction.links(self.ranks))
        disturbed = None if self.lessons is None else self.lessons.disturbed
        return correction.sentences(self.ranks, disturbed, planned=not self._plan_stays())

    def _learn(self, slow: Mapping[int, float], thin: Mapping[tuple[int, int], float]) -> None:
        if self.lessons is not None:
            self.lessons.learn(slow, thin)

    def _ask_again(self) -> tuple[str, ...]:
        """Probe workers that were left out for being slow, where that is due, and restore the first figures of those that
        have recovered."""
        events = []
        for rank in self._probation.due(time.monotonic()):
            try:
                recovered = self._recovered(rank)
            except MEMBER_ERRORS:
                recovered = False  # a lost worker is handled elsewhere
            if recovered:
                self.topology = restored(self._first, self.topology, rank)
                self._corrected -= {rank}
                self._pace = Pace(usual=self._pace.usual, needed=self._pace.needed)
                events.append(f"worker {rank} and its links are as fast as at the start; re-planned")
            else:
                self._probation = self._probation.still_slow(rank, time.monotonic())
        return tuple(events)

    def _recovered(self, rank: int) -> bool:
        from fogconv.calibration.devices import (
            QUICK,  # imported late: few runs need it, and its import takes 50 ms
        )

        for pair, there in (((MASTER, rank), True), ((rank, MASTER), False)):
            first, corrected = self._first.link(*pair), self.topology.link(*pair)
            n_bytes = probe_bytes(first)
            trip = self.session.ping(rank, n_bytes if there else 0, 0 if there else n_bytes)
            if not link_recovered(first, corrected, n_bytes, trip.there_s if there else trip.back_s):
                return False
        spec = QUICK[0]
        seconds = self.session.measure([spec], ranks=[rank])[rank].seconds[0]
        return device_recovered(self._first, self.topology, rank, spec, seconds)

    def recover(self, error: ClusterError) -> tuple[str, ...]:
        """After a failed run: plan for the remaining members. Raises the error where no member is lost."""
        self.session.refresh()
        turn = after_loss(self.ranks, self._present, str(error))
        # A worker often reports a broken link before the master notices the loss behind it.
        deadline = time.monotonic() + NOTICE_S
        while turn is None and isinstance(error, WorkerLostError) and time.monotonic() < deadline:
            time.sleep(0.02)
            self.session.refresh()
            turn = after_loss(self.ranks, self._present, str(error))
        if turn is None and isinstance(error, WorkerLostError) and self.session.reconnects < MOST_BROKEN:
            self.session.reconnect()
            turn = MembershipChange(self.ranks, True, (f"{error}; the inference ran again from its input",))
        if turn is None:
            raise error
        _let_go(error)
        return self._turn(turn)

    def _turn(self, turn: MembershipChange) -> tuple[str, ...]:
        events = turn.events
        self._correction = None
        if turn.members != self.ranks:
            self._pace = Pace()
        self._unload(loaded for _, loaded in self.lanes)
        before = self._uncoded()
        self.ranks = turn.members
        events += self._uncoded() if not before else ()
        self.events.extend(events)
        try:
            self._place()
        except WorkerLostError as error:
            events += self.recover(error)
        return events

    def _uncoded(self) -> tuple[str, ...]:
        sentence = without_code(self.plan_options.protection, len(self.ranks))
        return () if sentence is None else (sentence,)

    # Programs

    @property
    def plan(self) -> Plan:
        return self._compiled.plan

    @property
    def programs(self) -> tuple[Program, ...]:
        return self._compiled.programs

    @property
    def loaded(self) -> Loaded:
        """The programs of the plan; those beside it are for streams."""
        return self.lanes[0][1]

    def _place_early(self) -> None:
        """Begin with the master alone, while weights are sent in the order of what each gains."""
        self._arriving = Arriving(self.session, self.graph, self.topology, self.plan_options, self.ranks, self._host)
        (self._compiled, loaded), _ = self._arriving.choose()
        self.lanes = ((self.plan, loaded),)

    def _arrived(self) -> tuple[str, ...]:
        """Take the plan for the weights that have landed. Returns messages about it."""
        if self._arriving is None:
            return ()
        over = self._arriving.over
        (self._compiled, loaded), events = self._arriving.choose()
        self.lanes = ((self.plan, loaded),)
        if over:
            self._arriving = None
        self.events.extend(events)
        return events

    def _settle(self) -> None:
        """Wait for all weights."""
        if self._arriving is not None:
            self._arriving.wait()
            self._arrived()

    def _place(self) -> None:
        if self._arriving is not None:
            self._arriving.close(self.loaded)
            self._arriving = None
        self._compiled, loaded = self._loaded_for(self.ranks, self.progress)
        self.lanes = tuple(zip(self.plan.lanes, loaded, strict=True))

    def _loaded_for(
        self, members: tuple[int, ...], progress: Callable[[Progress], None] | None = None
    ) -> tuple[CompiledPlan, tuple[Loaded, ...]]:
        """Plan for these members, make their programs, load them. A worker that refuses its part for lack of memory gets
        less."""
        while True:
            play = self._plans.play(self.topology, members)
            try:
                return play, self._load_all(play, progress)
            except WorkerMemoryError as error:
                if error.rank not in members:
                    raise
                smaller = with_less_memory(self.topology, self.graph, play.plan, members, error.rank)
                try:
                    same = self._plans.plan(smaller, members).same_work(play.plan)
                except PlannerError:
                    raise error from None
                if same:
                    raise
                self.topology = smaller
                self.events.append(f"{error}; re-planned with less for it")

    def load(self, lane: int, like: Loaded | None = None) -> Loaded:
        """Another copy of a lane's programs; one on the master alone where the workers are to use that of ``like``."""
        wanted = self._compiled.lanes[lane]
        return self._load(wanted) if like is None else self.session.again(like, wanted.weights, host=self._host)

    def _load_all(self, play: CompiledPlan, progress: Callable[[Progress], None] | None) -> tuple[Loaded, ...]:
        loaded: list[Loaded] = []
        try:
            for lane in play.lanes:
                loaded.append(self._load(lane, progress))
        except BaseException:
            self._unload(loaded)
            raise
        return tuple(loaded)

    def _load(self, lane: CompiledPlan, progress: Callable[[Progress], None] | None = None) -> Loaded:
        runs = -(-lane.plan.in_flight // lane.plan.copies)
        loaded = self.session.load(lane.programs, lane.weights, host=self._host, progress=progress, runs=runs)
        trim()  # compilers and packing leave much free memory, and what runs now takes none
        return loaded

    def _host(self, layer: int, values: dict[Any, Any], maps: Sequence[NDArray[np.float32]]) -> Sequence[Array]:
        found = self.graph.layers[layer]
        assert isinstance(found, Host)
        return found.call(values, *maps)

    def outputs(self, run: RunResult) -> Mapping[str, Array]:
        return named(self.graph, run.outputs)


def _let_go(error: BaseException) -> None:
    """Drop the traceback frames of a handled error. They hold the programs, buffers and packed weights of the failed run,
    in reference cycles that only a full garbage collection frees, possibly hundreds of megabytes later.
    """
    linked = [error]
    for each in linked:  # grows in the loop; a cause may have its effect as its context
        each.__traceback__ = None
        linked += [other for other in (each.__cause__, each.__context__) if other is not None and other not in linked]
