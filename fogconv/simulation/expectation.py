"""Expectation: what the convs and the messages of an inference take, as the cluster is known. Pure.

Without a quota a conv takes its predicted time. Under one a device computes at full speed while its share of a period
lasts, and then waits for the next: a conv takes a tenth of its long-run time, or all of it and more, by what the rank did
before, and a message waits for the next period of either end. Ranks of one machine take turns on its cores. The simulator
counts that, so inferences are held against simulated ones:

    simulated   seconds of a rank's convs in an inference, by how many times slower all devices are than the topology says
    slower      the factor at which the simulated seconds are the measured ones

Simulations are made as they are needed: none where every device has its cores for itself, two or three where the rates are
right.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fogconv.hardware.topology import Topology, kernel_class
from fogconv.ir.geometry import BYTES_PER_ELEMENT
from fogconv.ir.program import Program
from fogconv.ir.steps import AnyStep, Conv, Recv, Send
from fogconv.simulation.layer_times import Times
from fogconv.simulation.simulator import Disturbance, simulate

LEAST_MACS = 100_000
"""The time of smaller convs is mostly the call, not the arithmetic."""
LEAST_WAIT = 0.1
"""The least share of a message's apparent time that its receiver must have waited; a shorter wait means that it had
arrived earlier."""
SEEDS, IN_A_ROW = 6, 3
"""Simulations per factor, and the inferences back to back in each, the first of which is left out: a device's position
in its quota's period differs from inference to inference."""
STEP = math.sqrt(2)
"""The factors that are simulated are powers of this; between them the logarithms are interpolated."""
MOST_STEPS = 12
"""64 times slower or faster at most."""


@dataclass(frozen=True, slots=True)
class Message:
    """One whose arrival is known. ``seconds``: from the end of its sending to its arrival."""

    origin: int
    to: int
    tag: int
    n_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Path:
    """Where a message is in the programs: the numbers of the sender's and of the receiver's step."""

    origin: int
    to: int
    tag: int
    n_bytes: int
    send: int
    receive: int


def paths(programs: Sequence[Program]) -> list[Path]:
    """All messages that one of these programs sends and another one receives."""
    receives = {
        (step.origin, program.rank, step.tag): number
        for program in programs
        for number, step in enumerate(program.steps)
        if isinstance(step, Recv)
    }
    return [
        Path(*key, step.elements * program.batch * BYTES_PER_ELEMENT, number, receives[key])
        for program in programs
        for number, step in enumerate(program.steps)
        if isinstance(step, Send) and (key := (program.rank, step.to, step.tag)) in receives
    ]


def waited_for(
    sender: NDArray[np.int64], receiver: NDArray[np.int64], sends: NDArray[np.int64], receives: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """By message, the seconds from the end of its sending to its arrival, and whether it was waited for: only then its
    arrival is known. By the times of both ranks' steps."""
    gone, arrived = sender[sends, 1], receiver[receives, 0]
    waited = arrived - np.where(receives > 0, receiver[receives - 1, 1], 0)  # only if no message before it was later
    took = arrived - gone
    # A message that arrived before it was sent only shows that the two clocks differ.
    return took * 1e-9, (took > 0) & (waited >= LEAST_WAIT * took)


def messages(programs: Sequence[Program], times: Times) -> Iterator[Message]:
    """The messages that were waited for."""
    between: dict[tuple[int, int], list[Path]] = defaultdict(list)
    for path in paths(programs):
        between[path.origin, path.to].append(path)
    for (origin, to), found in between.items():
        if origin in times and to in times:
            sends, receives = (np.array(places) for places in zip(*((p.send, p.receive) for p in found), strict=True))
            took_s, known = waited_for(times[origin], times[to], sends, receives)
            for place in np.flatnonzero(known):
                yield Message(origin, to, found[place].tag, found[place].n_bytes, float(took_s[place]))


def computing_s(program: Program, times: NDArray[np.int64]) -> float:
    """Seconds of the convs that tell a rank's rate."""
    return steps_s(times, telling_steps(program))


def telling_steps(program: Program) -> NDArray[np.int64]:
    """The numbers of the steps that tell a rank's rate."""
    return np.array([place for place, step in enumerate(program.steps) if tells(program, step)], np.int64)


def steps_s(times: NDArray[np.int64], steps: NDArray[np.int64]) -> float:
    """Seconds of these steps."""
    return float((times[steps, 1] - times[steps, 0]).sum()) * 1e-9


def whole_s(times: NDArray[np.int64]) -> float:
    """From the start of a rank's first step to the end of its last one."""
    return float(times[-1, 1] - times[0, 0]) * 1e-9 if len(times) else 0.0


def tells(program: Program, step: AnyStep) -> bool:
    """Whether a step's time is that of computing. A linear layer's is that of reading its weights, from a cache or from
    memory, and so is that of any conv whose weights are swapped."""
    return (
        isinstance(step, Conv)
        and step.spec.macs >= LEAST_MACS
        and step.weight not in program.swapped
        and kernel_class(step.spec) != "linear"
    )


@dataclass(frozen=True, slots=True)
class Simulated:
    """The mean of some inferences: seconds of the whole; by rank, of its convs; by origin, target and tag, of messages."""

    whole_s: float
    computing_s: Mapping[int, float]
    messages_s: Mapping[tuple[int, int, int], float]


class Expectation:
    """Of the programs of one plan; ``programs[i]`` is rank i's of ``topology``."""

    def __init__(self, programs: Sequence[Program], topology: Topology) -> None:
        self._programs = programs
        self._topology = topology
        self._simulated: dict[int, Simulated] = {}

    def slower(self, rank: int, measured_s: float) -> float:
        """``measured_s``: of all convs of this rank that tell its rate, in one inference."""
        if self._topology.devices[rank].share < 1:
            return self._factor(measured_s, lambda found: found.computing_s[rank])
        return measured_s / self._long_run_s[rank]

    def all_slower(self, measured_s: float) -> float | None:
        """By the master's time for a whole inference; None where every device computes as it can all the time: then convs
        tell rates better."""
        if not (self._throttled or self._topology.shared_machines):
            return None
        return self._factor(measured_s, lambda found: found.whole_s)

    def message_s(self, origin: int, to: int, tag: int, undisturbed_s: float) -> float:
        """From the end of a message's sending to its arrival, where it takes ``undisturbed_s`` between devices that always
        have time for it."""
        if min(self._topology.devices[rank].share for rank in (origin, to)) == 1:
            return undisturbed_s
        return max(undisturbed_s, self._at(0).messages_s.get((origin, to, tag), 0.0))

    @cached_property
    def _long_run_s(self) -> tuple[float, ...]:
        return tuple(
            sum(device.conv_s(step.spec) for step in program.steps if isinstance(step, Conv) and tells(program, step))
            for program, device in zip(self._programs, self._topology.devices, strict=False)
        )

    def _factor(self, measured_s: float, seconds: Callable[[Simulated], float]) -> float:
        """How many times slower than the topology says all devices are, by simulated seconds."""
        way = 1 if measured_s > seconds(self._at(0)) else -1
        # Further away from 1 until the measured time lies between two simulated ones.
        for number in range(MOST_STEPS):
            near, far = (seconds(self._at(way * steps)) for steps in (number, number + 1))
            if (far - measured_s) * way >= 0:
                within = math.log(measured_s / near) / math.log(far / near) if far != near and near > 0 else 0.0
                return float(STEP ** (way * (number + min(1.0, max(0.0, within)))))
        return float(STEP ** (way * MOST_STEPS))

    def _at(self, steps: int) -> Simulated:
        """All devices being STEP to the power of ``steps`` times slower."""
        if steps not in self._simulated:
            seeds = SEEDS if self._throttled else 1
            self._simulated[steps] = simulated(self._programs, self._topology.slowed(STEP**steps), seeds)
        return self._simulated[steps]

    @property
    def _throttled(self) -> bool:
        return any(device.share < 1 for device in self._topology.devices)


def simulated(programs: Sequence[Program], topology: Topology, seeds: int) -> Simulated:
    """Inferences at so many positions in the periods of the devices' quotas."""
    whole: list[float] = []
    computing: dict[int, list[float]] = defaultdict(list)
    taken: dict[tuple[int, int, int], list[float]] = defaultdict(list)
    for seed in range(seeds):
        timeline = simulate(programs, topology, inferences=IN_A_ROW, disturbance=Disturbance(seed=seed), keep_events=False)
        for times in timeline.times[1:]:
            whole.append(whole_s(times[0]))
            for program in programs:
                computing[program.rank].append(computing_s(program, times[program.rank]))
            for message in messages(programs, times):
                taken[message.origin, message.to, message.tag].append(message.seconds)
    return Simulated(
        float(np.mean(whole)),
        {rank: float(np.mean(seconds)) for rank, seconds in computing.items()},
        {key: float(np.mean(seconds)) for key, seconds in taken.items()},
    )
