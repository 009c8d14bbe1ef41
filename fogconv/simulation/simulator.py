"""Simulate: the engine's programs on simulated devices and links, event by event (simpy).

    start      a message from the master to every other rank that has work, and one back at the end
    rank       runs its program's steps one after the other: a step takes the time that the model predicts for that device;
               of several inferences in flight the oldest computes first, and the next one while that waits for a message
    processor  of every rank: where it has a quota, the work for messages takes turns with the program's steps
    card       of every rank, full duplex: one queue out and one in; messages that share it take turns chunk by chunk
    machine    ranks of one machine take turns on its cores, with their steps and with their messages
    medium     a shared access point: every chunk from or to one of its ranks occupies it (twice, where both are)
    message    waits for those before it to the same rank; it arrives with its last chunk, α after that was sent

The input is the programs that the workers get, the result a timeline. Supports up to 1,024 workers, uneven devices,
stragglers, several inferences in flight, and several plans beside each other, of which the one that is free takes the next.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fogconv.errors import ClusterError, DependencyError, InputError
from fogconv.hardware.topology import Link, Topology
from fogconv.ir import steps
from fogconv.ir.geometry import BYTES_PER_ELEMENT, ConvSpec
from fogconv.ir.memory.swapping import slowdown, step_read_bytes
from fogconv.ir.precision.scale import FP32
from fogconv.ir.program import Program
from fogconv.ir.steps import PIXEL_PASSES, copied_bytes
from fogconv.simulation.event import Event
from fogconv.simulation.processor import Card, Processor, Turn
from fogconv.values import table

if TYPE_CHECKING:
    import simpy

MOST_CHUNKS = 32
"""The most chunks of a message, which take turns on a card; fewer in a large cluster, to limit the number of events."""
LEAST_CHUNKS, CHUNK_BYTES = 4, 64 << 10
"""The least bytes of a chunk: the amount that a system passes to its card at a time."""
START = -1
"""The tag of the message that starts an inference on a rank."""
SLICES = 8
"""Pieces of a kernel on a shared machine: each piece takes longer by how busy the cores are when it begins."""
WINDOW_BYTES = 512 << 10
"""The bytes in flight to one rank before the sender's processor handles more: the send buffer of a connection."""

MOST_S = 9e9
"""Times are kept as whole nanoseconds in 64 bits, which end here."""

Process = Generator[Any, Any, None]

Seconds = Callable[[int, ConvSpec], float]
"""(rank, the shard's spec) → seconds in the long run; by default γ·MACs + one step."""


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Differences between devices. ``stragglers``: rank → how many times slower it computes. ``jitter``: the standard
    deviation of the logarithm of every compute step's time, by a seeded generator. ``loss_of_rate``: rank → how many
    times slower its card is."""

    stragglers: Mapping[int, float] = field(default_factory=dict)
    loss_of_rate: Mapping[int, float] = field(default_factory=dict)
    jitter: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Timeline:
    """``latencies_s``: of each inference; ``ends_s`` when it was done, and ``lanes`` on which plan. ``events`` for
    `fogconv.analysis.trace`. ``card_bytes``: (sent, received) per rank.
    ``busy_s``: seconds of computing per rank; ``processor_s``: processor time of its program and messages, with a quota
    counted as in the long run. ``times``: of each inference, as its ranks would report them: rank → (steps, 2), start and
    end of every step in ns; a Recv starts when its message has arrived.
    """

    latencies_s: tuple[float, ...]
    total_s: float
    events: tuple[Event, ...]
    card_bytes: tuple[tuple[float, float], ...]
    busy_s: tuple[float, ...]
    processor_s: tuple[float, ...]
    times: tuple[Mapping[int, NDArray[np.int64]], ...]
    ends_s: tuple[float, ...] = ()
    lanes: tuple[int, ...] = ()

    @property
    def frames_per_s(self) -> float:
        """The rate of a stream: of all plans together, each from its first results to its last one."""
        rate = 0.0
        for lane in set(self.lanes):
            ends = sorted(end for end, mine in zip(self.ends_s, self.lanes, strict=True) if mine == lane)
            first = len(ends) // 4
            span = ends[-1] - (ends[first] if len(ends) > 1 else 0.0)
            rate += max(1, len(ends) - 1 - first) / span if span > 0 else 0.0
        return rate


def simulate(
    programs: Sequence[Program],
    topology: Topology,
    *,
    inferences: int = 1,
    in_flight: int = 1,
    beside: Sequence[Sequence[Program]] = (),
    disturbance: Disturbance = Disturbance(),
    access_points: Mapping[int, int] | None = None,
    access_point_bytes_per_s: float | None = None,
    host_s: Mapping[int, float] | None = None,
    seconds: Seconds | None = None,
    array_s: Callable[[int, steps.ArrayStep], float] | None = None,
    keep_events: bool = True,
) -> Timeline:
    """Run the programs; ``programs[i]`` is rank i's. ``beside`` are those of further plans, on each of which as many
    inferences are in flight.

    ``access_points`` maps ranks to their shared medium of ``access_point_bytes_per_s``; the others have cables of their
    own. ``host_s``: seconds of Host steps by layer. ``seconds`` predicts convs instead of γ·MACs, and ``array_s``
    the steps on arrays, by which training computes. Raises InputError for ranks that the topology lacks, ClusterError when
    the programs wait for messages that no rank sends.
    """
    if len(programs) > len(topology):
        raise InputError(f"{len(programs)} programs for a topology of {len(topology)} ranks")
    table.INFERENCES.check("inferences", inferences)
    table.IN_FLIGHT.check("in_flight", in_flight)
    table.JITTER.check("jitter", disturbance.jitter)
    points = access_points or {}
    if points and not (access_point_bytes_per_s and access_point_bytes_per_s > 0):
        raise InputError("a shared access point needs a positive bandwidth")
    for rank, factor in (*disturbance.stragglers.items(), *disturbance.loss_of_rate.items()):
        if rank not in topology.ranks or not factor > 0:
            raise InputError(
                f"rank {rank} slower by {factor}: there are ranks 0 to {len(topology) - 1}, factors are positive"
            )
    world = _World(
        topology, disturbance, points, access_point_bytes_per_s or 0.0, host_s or {}, seconds, array_s, keep_events
    )
    return world.run((programs, *beside), inferences, in_flight)


class _World:
    def __init__(
        self,
        topology: Topology,
        disturbance: Disturbance,
        points: Mapping[int, int],
        point_rate: float,
        host_s: Mapping[int, float],
        seconds: Seconds | None,
        array_s: Callable[[int, steps.ArrayStep], float] | None,
        keep_events: bool,
    ) -> None:
        try:
            import simpy
        except ImportError as error:
            raise DependencyError("simpy is not installed, and no plan can be predicted: pip install simpy") from error
        self.topology = topology
        self.env: simpy.Environment = simpy.Environment()
        self.random = random.Random(disturbance.seed)
        self.disturbance = disturbance
        self.host_s = host_s
        self.seconds = seconds or (lambda rank, spec: topology.devices[rank].conv_s(spec))
        self.array_s = array_s
        self.keep_events = keep_events
        self.processors = [Processor(self.env, device, self.random) for device in topology.devices]
        self.machines = {rank: (ranks, cores) for ranks, cores in topology.shared_machines for rank in ranks}
        self.at_work: dict[tuple[int, ...], float] = defaultdict(float)
        names = {device.machine or str(rank) for rank, device in enumerate(topology.devices)}
        self.disks = {name: simpy.Resource(self.env) for name in names}
        bursts = _bursts(topology)
        cards = [topology.card(rank) for rank in topology.ranks]
        self.out = [Card(cards[rank][0], bursts[rank][0]) for rank in topology.ranks]
        self.into = [Card(cards[rank][1], bursts[rank][1]) for rank in topology.ranks]
        self.lines: dict[tuple[int, int], tuple[simpy.Resource, simpy.Container]] = {}
        self.medium = {point: simpy.Resource(self.env) for point in set(points.values())}
        self.points = points
        self.point_s_per_byte = 1 / point_rate if point_rate else 0.0
        self.arrivals: dict[tuple[int, int, int, int], simpy.Event] = {}
        self.events: list[Event] = []
        self.sent = [0.0] * len(topology)
        self.received = [0.0] * len(topology)
        self.busy = [0.0] * len(topology)
        self.times: list[dict[int, NDArray[np.int64]]] = []
        self.turns = [Turn(self.env) for _ in topology.ranks]
        self.running: list[tuple[int, simpy.Process]] = []
        self.lanes: Sequence[Sequence[Program]] = ()
        self.free: deque[int] = deque()
        self.left: deque[int] = deque()
        self.chunks = max(2, min(MOST_CHUNKS, 2048 // len(topology)))

    def run(self, lanes: Sequence[Sequence[Program]], inferences: int, in_flight: int) -> Timeline:
        self.begins, self.ends = [0.0] * inferences, [0.0] * inferences
        self.times = [{} for _ in range(inferences)]
        self.lanes, self.lane_of = lanes, [0] * inferences
        self.free = deque(lane for _ in range(in_flight) for lane in range(len(lanes)))
        self.left = deque(range(inferences))
        self._begin()
        self.env.run()
        stuck = [rank for rank, process in self.running if process.is_alive]
        if stuck:
            raise ClusterError(f"the simulated ranks {stuck[:8]} wait for messages that no rank sends")
        return Timeline(
            tuple(end - begin for begin, end in zip(self.begins, self.ends, strict=True)),
            float(self.env.now),
            tuple(self.events),
            tuple(zip(self.sent, self.received, strict=True)),
            tuple(self.busy),
            tuple(processor.worked_s for processor in self.processors),
            tuple(self.times),
            tuple(self.ends),
            tuple(self.lane_of),
        )

    def _begin(self) -> None:
        """Start as many inferences as are left and may be in flight."""
        self.running = [each for each in self.running if each[1].is_alive]
        while self.free and self.left:
            lane, number = self.free.popleft(), self.left.popleft()
            self.lane_of[number] = lane
            others = [program.rank for program in self.lanes[lane] if program.rank and program.steps]
            for program in self.lanes[lane]:
                if program.steps or not program.rank:
                    self.running.append((program.rank, self.env.process(self._rank(program, number, lane, others))))
                else:
                    self.times[number][program.rank] = np.zeros((0, 2), np.int64)

    def _rank(self, program: Program, number: int, lane: int, others: Sequence[int]) -> Process:
        """One rank's part of an inference. When the master's is done, the next one may start."""
        rank = program.rank
        if rank == 0:
            self.begins[number] = self.env.now
            yield from self._start(number, others)
        else:
            yield self._arrival(number, 0, rank, START)
        times = self.times[number][rank] = np.zeros((len(program.steps), 2), np.int64)
        for place, step in enumerate(program.steps):
            begin = yield from self._step(program, step, number)
            if not self.env.now < MOST_S:
                raise InputError(f"the simulated time exceeds {MOST_S:.0e} s: the rates are too low".replace("e+0", "e"))
            times[place] = round(begin * 1e9), round(self.env.now * 1e9)
        if rank == 0:
            # Their reports of the end.
            yield from self._work(0, self._message_s(0) * len(others))
            self.ends[number] = self.env.now
            self.free.append(lane)
            self._begin()

    def _start(self, number: int, others: Sequence[int]) -> Process:
        """The master tells the others, one after the other, to start."""
        for rank in others:
            yield from self._work(0, self._message_s(0))
            self.env.process(self._started(number, rank))

    def _started(self, number: int, rank: int) -> Process:
        yield self.env.timeout(self._latency_s(self.topology.link(0, rank), 0, rank))
        yield from self._work(rank, self._message_s(rank), urgent=True)
        self._arrival(number, 0, rank, START).succeed()

    def _step(self, program: Program, step: steps.AnyStep, number: int) -> Generator[Any, Any, float]:
        """Run a step. Returns its start time."""
        rank, begin = program.rank, float(self.env.now)
        name = program.layers[step.layer] if 0 <= step.layer < len(program.layers) else "?"
        match step:
            case steps.Send():
                yield from self._work(rank, self._handling_s(program, step) + self._message_s(rank))
                self._record(rank, f"send {name}", begin, "send")
                self.env.process(self._message(program, step, number, name))
            case steps.Recv():
                yield self._arrival(number, step.origin, rank, step.tag)
                if self.env.now > begin:
                    self._record(rank, f"wait {name}", begin, "wait")
                begin = float(self.env.now)
                yield from self._work(rank, self._handling_s(program, step))
                self._record(rank, f"receive {name}", begin, "receive")
            case steps.Gather():
                # All pieces arrive here, and none is wrong: the parity sum is received beside them, but not needed.
                for number_of_piece, recv in enumerate(steps.gathers(step)):
                    yield self._arrival(number, recv.origin, rank, recv.tag)
                    begin = begin if number_of_piece else float(self.env.now)
                    yield from self._work(rank, self._handling_s(program, recv))
                self._record(rank, f"receive {name}", begin, "receive")
            case steps.Input() | steps.Output() | steps.HostOutput():
                yield from self._compute(rank, self._compute_s(program, step))
                self._record(rank, name, begin, type(step).__name__.lower())
            case _:
                yield from self.turns[rank].take(number)
                begin = float(self.env.now)
                yield from self._read(rank, step_read_bytes(program, step))
                yield from self._compute(rank, self._compute_s(program, step))
                self.turns[rank].give()
                self._record(rank, name, begin, type(step).__name__.lower())
        return begin

    def _read(self, rank: int, n_bytes: int) -> Process:
        """Swapped weights from the disk, which ranks of one machine share; nothing else happens on the rank meanwhile."""
        if n_bytes:
            device = self.topology.devices[rank]
            with self.disks[device.machine or str(rank)].request() as turn:
                yield turn
                yield self.env.timeout(device.read_s(n_bytes))

    def _compute(self, rank: int, seconds: float) -> Process:
        """A step's kernel, on all of the rank's threads."""
        slices = SLICES if rank in self.machines else 1
        for _ in range(slices):
            yield from self._work(rank, seconds / slices, threads=self.topology.devices[rank].threads)

    def _work(self, rank: int, seconds: float, *, threads: int = 1, urgent: bool = False) -> Process:
        """Processor time of a rank, for its program or (``urgent``) its messages. Ranks of one machine take turns on its
        cores, for both: it takes longer by how busy these are when it begins."""
        ranks, cores = self.machines.get(rank, ((), 1.0))
        if not ranks:
            yield from self.processors[rank].work(seconds, urgent=urgent)
            return
        mine = min(float(threads), cores)
        self.at_work[ranks] += mine
        yield from self.processors[rank].work(seconds * max(1.0, self.at_work[ranks] / cores), urgent=urgent)
        self.at_work[ranks] -= mine

    def _message(self, program: Program, step: steps.Send, number: int, name: str) -> Process:
        """Send a message chunk by chunk; every chunk passes the medium and the other card on its own."""
        origin, to = program.rank, step.to
        link, device = self.topology.link(origin, to), self.topology.devices[origin]
        n_bytes = step.elements * program.batch * step.element_bytes
        self.sent[origin] += n_bytes
        self.received[to] += n_bytes
        chunks = min(self.chunks, max(LEAST_CHUNKS, math.ceil(n_bytes / CHUNK_BYTES)))
        chunk = n_bytes / chunks
        left = [chunks]
        turn, window = self._line(origin, to)
        with turn.request() as mine:
            yield mine
            begin = self.env.now
            yield self.env.timeout(link.wake_s + (link.messages(n_bytes / BYTES_PER_ELEMENT) - 1) * link.latency_s)
            for _ in range(chunks):
                yield from self._work(origin, self._slower(origin) * device.send_s_per_byte * chunk, urgent=True)
                yield window.get(min(chunk, WINDOW_BYTES / 2))
                self.env.process(self._chunk(origin, step, chunk, link, number, left, window))
        if self.keep_events:
            self.events.append(Event(origin, f"{name} → {to}", begin, self.env.now, "transfer", "transmit"))

    def _chunk(
        self,
        origin: int,
        step: steps.Send,
        n_bytes: float,
        link: Link,
        number: int,
        left: list[int],
        window: simpy.Container,
    ) -> Process:
        """Pass through both cards at the same time, as frames do; each card serves its queue in order."""
        env, to = self.env, step.to
        out_s = n_bytes * max(self.out[origin].s_per_byte, link.s_per_byte) * self._rate_loss(origin)
        gone_s = self.out[origin].pass_s(env.now, out_s)
        yield env.timeout(max(0.0, gone_s - out_s))
        in_s = n_bytes * self.into[to].s_per_byte * self._rate_loss(to)
        yield env.timeout(max(min(out_s, gone_s), self.into[to].pass_s(env.now, in_s)))
        for end in (origin, to):
            point = self.points.get(end)
            if point is not None:
                with self.medium[point].request() as turn:
                    yield turn
                    yield env.timeout(n_bytes * self.point_s_per_byte)
        yield window.put(min(n_bytes, WINDOW_BYTES / 2))
        yield env.timeout(self._latency_s(link, origin, to))
        device = self.topology.devices[to]
        yield from self._work(to, self._slower(to) * device.receive_s_per_byte * n_bytes, urgent=True)
        left[0] -= 1
        if not left[0]:
            yield from self._work(to, self._message_s(to), urgent=True)
            self._arrival(number, origin, to, step.tag).succeed()

    def _line(self, origin: int, to: int) -> tuple[simpy.Resource, simpy.Container]:
        """The connection between two ranks: one message at a time, and space in its window."""
        import simpy

        if (origin, to) not in self.lines:
            window = simpy.Container(self.env, init=WINDOW_BYTES)
            self.lines[origin, to] = (simpy.Resource(self.env), window)
        return self.lines[origin, to]

    def _latency_s(self, link: Link, origin: int, to: int) -> float:
        """α without the processor time of both ends, which a ping includes and which is counted separately here."""
        ends = (self.topology.devices[origin], self.topology.devices[to])
        return max(0.0, link.latency_s - sum(device.share * device.message_s for device in ends))

    def _message_s(self, rank: int) -> float:
        return self._slower(rank) * self.topology.devices[rank].message_s

    def _arrival(self, number: int, origin: int, to: int, tag: int) -> simpy.Event:
        key = (number, origin, to, tag)
        if key not in self.arrivals:
            self.arrivals[key] = self.env.event()
        return self.arrivals[key]

    def _rate_loss(self, rank: int) -> float:
        return self.disturbance.loss_of_rate.get(rank, 1.0)

    def _handling_s(self, program: Program, step: steps.Send | steps.Recv) -> float:
        """The processor's part of a message: cut or join it once, code it, pass it to the system."""
        rank, device = program.rank, self.topology.devices[program.rank]
        copied = sum(part.region.copied for part in step.parts) * program.batch
        # The arrays of a training step are in no buffer, and in fp32.
        precision = program.buffers[step.parts[0].buffer].precision if program.buffers else FP32
        per_element = copied_bytes(precision.element, step.wire)
        if step.pixels is not None:
            per_element = precision.bytes * (1.0 + PIXEL_PASSES)
        return self._disturbed(rank, device.step_s + device.copy_s(copied * per_element))

    def _compute_s(self, program: Program, step: steps.AnyStep) -> float:
        rank = program.rank
        device = self.topology.devices[rank]
        match step:
            case steps.Conv():
                slower = slowdown(step.spec) if step.weight in program.swapped else 1.0
                return self._disturbed(rank, self.seconds(rank, step.spec) * slower)
            case steps.Host():
                return self._disturbed(rank, self.host_s.get(step.layer, 0.0))
            case steps.HostOutput():
                return 0.0
            case _ if isinstance(step, steps.ArrayStep) and self.array_s is not None:
                return self._disturbed(rank, self.array_s(rank, step))
            case _:
                work = program.work(step)
        if work is None:
            raise InputError(f"{type(step).__name__} steps (training) are not simulated")
        return self._disturbed(rank, device.work_s(work))

    def _slower(self, rank: int) -> float:
        return self.disturbance.stragglers.get(rank, 1.0)

    def _disturbed(self, rank: int, seconds: float) -> float:
        slower = self._slower(rank)
        if self.disturbance.jitter:
            slower *= self.random.lognormvariate(0.0, self.disturbance.jitter)
        return seconds * slower

    def _record(self, rank: int, name: str, begin: float, kind: str) -> None:
        now = self.env.now
        if kind != "wait":
            self.busy[rank] += now - begin
        if self.keep_events and now > begin:
            self.events.append(Event(rank, name, begin, now, kind))


def _bursts(topology: Topology) -> list[tuple[float, float]]:
    """The burst of each card, out and in, in bytes: the largest of its links."""
    found = [[0.0, 0.0] for _ in topology.ranks]
    for (i, j), link in topology.links.items():
        found[i][0] = max(found[i][0], link.burst_bytes)
        found[j][1] = max(found[j][1], link.burst_bytes)
    fallback = topology.default_link.burst_bytes if topology.default_link is not None else 0.0
    return [(max(out, fallback), max(into, fallback)) for out, into in found]
