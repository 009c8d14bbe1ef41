"""Pace: the measured speed of devices and links while inferences run, and when it justifies a new plan. Pure functions.

    predicted   the cost of a step of a program on its rank by the topology
    measured    its cost by the times of a run
    drift       measured ÷ predicted, per rank and per card: 1: as planned, 2: twice as slow

A plan balances the ranks against each other, so only a rank's drift relative to the others matters: when all are slower
by the same factor, the plan is as good as before. When all are faster than measured, the rates were measured beside other
work, and are corrected, so that predictions are right. Ranks that share a machine take turns on its cores, as planned: that
is no drift; nor are the bursts in which a device under a quota computes (`fogconv.simulation.expectation`). Hysteresis: a
drift counts when it exceeded MARGIN in the same direction in STREAK consecutive inferences; the next correction of a rank
takes twice as many.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fogconv.hardware.topology import Link, Topology
from fogconv.ir.program import Program
from fogconv.simulation.expectation import Expectation, paths, steps_s, telling_steps, waited_for, whole_s
from fogconv.simulation.layer_times import Times

MARGIN = 1.5
"""A rank gets another share when it takes longer than predicted by this factor, or is faster by it."""
LINK_MARGIN = 4.0
"""Message times vary with the system's load: only a change by this factor counts."""
OVERALL_MARGIN = 2.0
"""For all ranks together: rates from a few convs are off by less for any network."""
FASTER_MARGIN, FASTER_STREAK = 1.25, 3
"""All ranks that were faster than their rates by this factor, so many times in a row, are corrected, too. Once runs have
corrected them, CLOSE and STREAK are enough, in both directions, and twice as many each time."""
CLOSE = 1.15
"""An overall drift below this is ignored."""
CARD_MARGIN = 1.5
"""Where one link to (or from) a rank became slow and all others to it take longer than usual by this factor, its card
became slow."""
STREAK = 2
"""Consecutive inferences."""
PATIENT = 8
MOST_STREAK = 32
CALM = 20
LEAST_S = 2e-4
"""A rank that computes for less than this in an inference is not judged."""
LEAST_BYTES = 1 << 10
"""Shorter messages don't measure bandwidth; nor do those that take less time on the wire than their latency."""
CLAMP = 64.0


@dataclass(frozen=True, slots=True)
class Drift:
    """``compute[rank]``: measured ÷ predicted seconds of its convs. ``wire[i, j]``: of the quicker messages from i to j,
    where they were long enough to measure; at least 1. ``whole``: of the whole inference, where quotas leave convs' times
    uncertain. Ranks are the plan's."""

    compute: Mapping[int, float]
    wire: Mapping[tuple[int, int], float]
    whole: float | None = None


@dataclass(frozen=True, slots=True)
class _Stream:
    """The messages from one rank to another that are long enough to measure: by message the sender's and the receiver's
    step, the bytes and the tag."""

    origin: int
    to: int
    pair: tuple[int, int]
    sends: NDArray[np.int64]
    receives: NDArray[np.int64]
    undisturbed_s: NDArray[np.float64]
    tags: tuple[int, ...]


class Observer:
    """The drift of the runs of one plan; what does not depend on the run is prepared once.

    ``members[i]`` is the session's rank of the plan's i-th; ``topology`` is that of the members, and ``expectation`` is of
    the plan's programs on it (it keeps what it has simulated).
    """

    def __init__(
        self,
        programs: Sequence[Program],
        members: Sequence[int],
        topology: Topology,
        expectation: Expectation | None = None,
    ) -> None:
        self._expected = expectation or Expectation(programs, topology)
        self._topology = topology
        self._master = members[0]
        places = {rank: place for place, rank in enumerate(members)}
        self._telling = [(program.rank, places[program.rank], telling_steps(program)) for program in programs]
        self._streams = _streams(programs, places, topology)
        self._predicted_s: dict[tuple[int, int], NDArray[np.float64]] = {}

    def observe(self, times: Times) -> Drift:
        """The drift of one run."""
        expected = self._expected
        compute: dict[int, float] = {}
        for rank, place, steps in self._telling:
            if rank in times:
                measured = steps_s(times[rank], steps)
                if measured >= LEAST_S:
                    compute[place] = expected.slower(place, measured)
        crowding = self._topology.crowding(sorted(compute))
        compute = {rank: ratio if ratio < 1 else max(1.0, ratio / crowding[rank]) for rank, ratio in compute.items()}
        wire: dict[tuple[int, int], float] = {}
        for stream in self._streams:
            if stream.origin in times and stream.to in times:
                took, known = waited_for(times[stream.origin], times[stream.to], stream.sends, stream.receives)
                if known.any():
                    ratios = (took / self._prediction(stream))[known]
                    wire[stream.pair] = max(1.0, _lower_quartile(ratios.tolist()))
        master = times.get(self._master)
        whole = None if master is None or not compute else expected.all_slower(whole_s(master))
        return Drift(compute, wire, whole)

    def _prediction(self, stream: _Stream) -> NDArray[np.float64]:
        """Seconds of each message. Made when it is needed: it may take simulations."""
        found = self._predicted_s.get(stream.pair)
        if found is None:
            each = zip(stream.tags, stream.undisturbed_s.tolist(), strict=True)
            seconds = [self._expected.message_s(*stream.pair, tag, undisturbed_s) for tag, undisturbed_s in each]
            found = self._predicted_s[stream.pair] = np.array(seconds)
        return found


def _streams(programs: Sequence[Program], places: Mapping[int, int], topology: Topology) -> list[_Stream]:
    found: dict[tuple[int, int], list[tuple[int, int, float, int]]] = {}
    for path in paths(programs):
        pair = places[path.origin], places[path.to]
        link = topology.link(*pair)
        on_wire_s = path.n_bytes * link.s_per_byte
        if path.n_bytes >= LEAST_BYTES and on_wire_s > link.latency_s:
            message = path.send, path.receive, link.latency_s + on_wire_s, path.tag
            found.setdefault((path.origin, path.to), []).append(message)
    streams = []
    for (origin, to), each in found.items():
        sends, receives, seconds, tags = zip(*each, strict=True)
        pair = places[origin], places[to]
        streams.append(_Stream(origin, to, pair, np.array(sends), np.array(receives), np.array(seconds), tags))
    return streams


@dataclass(frozen=True, slots=True)
class Pace:
    """Observations since the last plan: ``slow[rank]`` and ``thin[i, j]`` are (how often in a row, by how much). Ranks
    are compared with the prediction, links with their own first messages: the prediction includes a card's bandwidth, but
    not the system's overhead per message.
    """

    slow: Mapping[int, tuple[int, float]] = field(default_factory=dict)
    thin: Mapping[tuple[int, int], tuple[int, float]] = field(default_factory=dict)
    usual: Mapping[tuple[int, int], float] = field(default_factory=dict)
    latest: Mapping[tuple[int, int], float] = field(default_factory=dict)
    """How many times longer than usual each link of the last inference took."""
    needed: int = STREAK
    """The consecutive observations needed for ranks: twice as many after each correction, until CALM inferences passed
    without one. Links need STREAK, and PATIENT to count as recovered. Two alternatives were worse: counting for each rank
    separately corrected one after the other on a loaded machine; treating links like ranks noticed a slow link after two
    errors only when eight inferences had used it."""
    seen: int = 0
    middle: float = 1.0
    """Of the last inference's ranks, how many times slower than planned the middle one computed,"""
    overall: tuple[int, float] | None = None
    """and how often in a row it was off by OVERALL_MARGIN, and by how much."""
    common: tuple[float, ...] = ()
    """The latest inferences in a row in which it was off enough to count (see FASTER_MARGIN), by how much."""
    refined: int = 0
    """How often the rates of all ranks were corrected."""
    bursts: bool = False
    """Whether devices compute in bursts: then single inferences say little of one rank or one link, and PATIENT are
    needed."""

    def corrected(self, correction: Correction) -> Pace:
        """The pace after a new plan for the same members. The links' usual times and other observations are kept;
        otherwise a link that becomes slow during another correction would seem to have always been slow."""
        thin = {pair: seen for pair, seen in self.thin.items() if pair not in correction.thin}
        needed = min(MOST_STREAK, 2 * self.needed) if correction.slow else self.needed
        return Pace({}, thin, self.usual, {}, needed, refined=self.refined + (correction.overall != 1))

    def after(self, drift: Drift) -> Pace:
        """The pace after one more inference."""
        usually = statistics.median(drift.compute.values()) if drift.compute else 1.0
        middle = usually if drift.whole is None else drift.whole
        slow = {
            rank: _streak(self.slow.get(rank), seen / usually)
            for rank, seen in drift.compute.items()
            if _off(seen / usually, MARGIN)
        }
        usual = dict(self.usual)
        for pair, seen in drift.wire.items():
            # The first inference is cold: a link's usual time decreases to the measured time, and never increases.
            known = usual.get(pair, seen)
            usual[pair] = min(known, (known + seen) / 2)
        latest = {pair: seen / usual[pair] for pair, seen in drift.wire.items()}
        thin = {pair: _streak(self.thin.get(pair), ratio) for pair, ratio in latest.items() if _off(ratio, LINK_MARGIN)}
        seen = self.seen + 1
        overall = _streak(self.overall, middle) if drift.compute and _off(middle, OVERALL_MARGIN) else None
        common: tuple[float, ...] = ()
        if drift.compute and (_off(middle, CLOSE) if self.refined else middle < 1 / FASTER_MARGIN):
            same_way = self.common if self.common and (self.common[-1] > 1) == (middle > 1) else ()
            common = (*same_way, middle)[-MOST_STREAK:]
        needed = STREAK if seen >= CALM else self.needed
        bursts = drift.whole is not None
        return Pace(slow, thin, usual, latest, needed, seen, middle, overall, common, self.refined, bursts)

    def correction(self, *, measured: bool = False) -> Correction | None:
        """The correction of the topology, once something was off often enough; None to keep the plan.

        ``measured``: the rates were measured, and not given by a person: then the drift of all ranks is corrected, too.
        """
        needed = max(self.needed, PATIENT) if self.bursts else self.needed
        slow = {rank: ratio for rank, (count, ratio) in self.slow.items() if count >= needed}
        soon = PATIENT if self.bursts else STREAK
        thin = {pair: ratio for pair, (count, ratio) in self.thin.items() if count >= (soon if ratio > 1 else PATIENT)}
        for pair, ratio in list(thin.items()):
            for end in (0, 1):
                if ratio > 1 and self._card_is_thin(pair, end):
                    thin |= {other: ratio for other in self.usual if other[end] == pair[end] and other not in thin}
        if not measured:
            return Correction(slow, thin) if slow or thin else None
        soon = min(MOST_STREAK, STREAK * 2 ** (self.refined - 1)) if self.refined else FASTER_STREAK
        wrong = len(self.common) >= soon
        wrong |= self.overall is not None and self.overall[0] >= self.needed and self.overall[1] < 1
        middle = statistics.median(self.common) if self.common else self.middle
        overall = middle if _off(middle, CLOSE) else 1.0
        return Correction(slow, thin, overall) if slow or thin or wrong else None

    @property
    def all_slower(self) -> float | None:
        """How many times slower than planned all ranks are by now, at the inference that shows it; the plan stays."""
        if self.overall is None or self.overall[0] != self.needed or self.overall[1] < 1:
            return None
        return self.overall[1]

    def _card_is_thin(self, pair: tuple[int, int], end: int) -> bool:
        """Whether messages from (end 0) or to (end 1) this rank take longer for all other ranks. Always False for the
        master: a slow worker would make its card look slow."""
        if pair[end] == 0:
            return False
        others = [ratio for other, ratio in self.latest.items() if other[end] == pair[end] and other != pair]
        return bool(others) and min(others) > CARD_MARGIN


@dataclass(frozen=True, slots=True)
class Correction:
    """Ratios by which ranks and links are slower than the topology says (under 1: faster). Those of ``slow`` are against
    the others', and ``overall`` is what all ranks have in common."""

    slow: Mapping[int, float]
    thin: Mapping[tuple[int, int], float]
    overall: float = 1.0

    def ranks(self, members: Sequence[int]) -> dict[int, float]:
        """By the session's rank, how many times slower than the topology says each one computes; without those that are as
        it says."""
        found = {rank: _clamped(self.slow.get(place, 1.0) * self.overall) for place, rank in enumerate(members)}
        return {rank: ratio for rank, ratio in found.items() if ratio != 1.0}

    def links(self, members: Sequence[int]) -> dict[tuple[int, int], float]:
        """By the session's ranks, how many times slower than the topology says each link is."""
        return {(members[i], members[j]): _clamped(ratio) for (i, j), ratio in self.thin.items()}

    def apply(self, topology: Topology, members: Sequence[int]) -> Topology:
        """The session's topology with the measured rates. Only rates change."""
        if self.overall != 1:
            topology = topology.messages_slowed(_clamped(self.overall))
        for rank, ratio in self.ranks(members).items():
            topology = topology.replace_device(rank, topology.devices[rank].scaled(1.0 / ratio))
        links = dict(topology.links)
        for pair, ratio in self.links(members).items():
            links[pair] = _scaled(topology.link(*pair), ratio)
        return replace(topology, links=links)

    def sentences(
        self, members: Sequence[int], disturbed: Collection[int] | None = None, *, planned: bool = True
    ) -> tuple[str, ...]:
        """What was corrected. ``disturbed``: the session's ranks whose rates were measured beside other work, as
        far as known (a rank that is faster than measured was); None where a person gave the rates. ``planned``: whether
        another plan runs for it."""
        replanned = "re-planned" if planned else "the plan stays the best"
        events = []
        ratios = self.ranks(members)
        known = () if disturbed is None else disturbed
        wrong = [rank for rank, ratio in ratios.items() if _off(ratio, MARGIN)]
        mistaken = [rank for rank in wrong if disturbed is not None and (ratios[rank] < 1 or rank in known)]
        if mistaken:
            least, most = min(ratios[rank] for rank in mistaken), max(ratios[rank] for rank in mistaken)
            range_of = _pace(least) if f"{least:.1f}" == f"{most:.1f}" else f"{_pace(most)} to {_pace(least)}"
            events.append(f"rates of {_names(mistaken)} were measured beside other work; corrected ({range_of})")
        for rank in wrong:
            if rank not in mistaken:
                what = "planned" if disturbed is None else "measured: other work, heat, or ranks beside it"
                done = "shares changed" if planned else replanned
                events.append(f"{_names([rank])} is {_pace(ratios[rank])} than {what}; {done}")
        left = dict(self.thin)
        for end, way in ((1, "to"), (0, "from")):
            for rank in sorted({pair[end] for pair in left}):
                mine = [pair for pair in left if pair[end] == rank]
                if len(mine) > 1:
                    thinner = [left.pop(pair) for pair in mine]
                    events.append(f"the links {way} rank {members[rank]} are {_paces(thinner)} than planned; {replanned}")
        for (i, j), ratio in left.items():
            events.append(
                f"the link from rank {members[i]} to rank {members[j]} is {_paces([ratio])} than planned; {replanned}"
            )
        return tuple(events)


def all_slower(ratio: float) -> str:
    """The sentence for `Pace.all_slower`."""
    return f"all ranks are {_pace(ratio)} than measured; the plan stays as good, and they are measured again next time"


def _streak(before: tuple[int, float] | None, ratio: float) -> tuple[int, float]:
    """(how often in a row, the mildest ratio): a single outlier never determines the new share."""
    if before is None or (before[1] > 1) != (ratio > 1):
        return 1, ratio
    mildest = min(before[1], ratio) if ratio > 1 else max(before[1], ratio)
    return before[0] + 1, mildest


def _lower_quartile(ratios: Sequence[float]) -> float:
    """The lower quartile, because a device's pauses delay some messages, and a slow link all of them."""
    return statistics.quantiles(ratios, n=4, method="inclusive")[0] if len(ratios) > 1 else ratios[0]


def _off(ratio: float, margin: float) -> bool:
    return ratio > margin or ratio < 1 / margin


def _names(ranks: Sequence[int]) -> str:
    """ "the master, worker 1 and worker 2"."""
    names = ["the master" if rank == 0 else f"worker {rank}" for rank in ranks]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _pace(ratio: float) -> str:
    return f"{ratio:.1f}× slower" if ratio > 1 else f"{1 / ratio:.1f}× faster"


def _paces(ratios: Sequence[float]) -> str:
    ratio = statistics.median(ratios)
    return f"{ratio:.0f}× slower" if ratio > 1 else f"{1 / ratio:.0f}× faster"


def _clamped(ratio: float) -> float:
    return min(CLAMP, max(1 / CLAMP, ratio))


def _scaled(link: Link, ratio: float) -> Link:
    return replace(link, s_per_byte=link.s_per_byte * ratio)
