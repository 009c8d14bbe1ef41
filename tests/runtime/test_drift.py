"""Ranks and links that are not what they were planned for get other shares: soon, and not because of one wild reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fogconv.cluster.executor.executable import Executable
from fogconv.hardware.topology import Link, Topology, kernel_class
from fogconv.ir.geometry import ConvSpec, Region
from fogconv.ir.plan import Plan
from fogconv.ir.program import Program
from fogconv.ir.steps import Conv, Recv, Send
from fogconv.lowering.lower import lower
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.planner import plan as make_plan
from fogconv.runtime.drift import FASTER_STREAK, PATIENT, STREAK, Correction, Drift, Observer, Pace
from fogconv.runtime.engine import Engine
from fogconv.simulation.simulator import simulate
from tests.cluster.fault_cluster import FaultCluster, SlowExecutable, SlowHub, assert_right, image, network

TOPOLOGY = Topology.uniform(4, 1e9, 1e8, 1e-5, copy_s_per_byte=1e-11, step_s=1e-7)


def observe(
    programs: Sequence[Program], members: Sequence[int], times: Mapping[int, NDArray[np.int64]], topology: Topology
) -> Drift:
    """The drift of a single run."""
    return Observer(programs, members, topology).observe(times)


def times_of(
    programs: Sequence[Program], topology: Topology, slow: Mapping[int, float], thin: Mapping[tuple[int, int], float]
) -> dict[int, NDArray[np.int64]]:
    """The times of a run on a cluster that is what the topology says, but for some ranks and links."""
    clock = dict.fromkeys(range(len(programs)), 0)
    gone: dict[tuple[int, int, int], int] = {}
    rows: dict[int, list[tuple[int, int]]] = {program.rank: [] for program in programs}
    at = dict.fromkeys(clock, 0)
    moved = True
    while moved:
        moved = False
        for program in programs:
            rank = program.rank
            while at[rank] < len(program.steps):
                step, begin = program.steps[at[rank]], clock[rank]
                cost = 1000
                if isinstance(step, Conv):
                    device = topology.devices[rank]
                    seconds = step.spec.macs * device.gamma(kernel_class(step.spec)) + device.step_s
                    cost = int(1e9 * seconds * slow.get(rank, 1.0))
                elif isinstance(step, Recv):
                    key = (step.origin, rank, step.tag)
                    if key not in gone:
                        break
                    link = topology.link(step.origin, rank)
                    seconds = link.latency_s + 4 * step.region.elements * link.s_per_byte * thin.get(key[:2], 1.0)
                    begin = max(begin, gone[key] + int(1e9 * seconds))
                rows[rank].append((begin, begin + cost))
                clock[rank] = begin + cost
                if isinstance(step, Send):
                    gone[rank, step.to, step.tag] = clock[rank]
                at[rank] += 1
                moved = True
    return {rank: np.array(row, np.int64).reshape(-1, 2) for rank, row in rows.items()}


def programs_of(topology: Topology, scheme: str = "rows") -> tuple[Plan, tuple[Program, ...]]:
    plan = make_plan(network(), topology, PlanOptions(scheme))
    return plan, lower(network(), plan).programs


@cache
def even_rows() -> tuple[Program, ...]:
    """One plan for all: what it was made for does not matter here."""
    return programs_of(TOPOLOGY)[1]


def drift_of(topology: Topology, slow: Mapping[int, float], thin: Mapping[tuple[int, int], float]) -> Drift:
    programs = even_rows()
    return observe(programs, range(4), times_of(programs, topology, slow, thin), topology)


def test_a_cluster_as_it_was_measured_shows_no_drift() -> None:
    drift = drift_of(TOPOLOGY, {}, {})
    assert set(drift.compute) == {0, 1, 2, 3}
    assert all(seen == pytest.approx(1.0, rel=0.02) for seen in drift.compute.values())
    pace = Pace()
    for _ in range(5):
        pace = pace.after(drift)
        assert pace.correction() is None


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 3), st.floats(1.7, 20.0), st.booleans())
def test_a_device_whose_rate_changes_is_found_after_two_inferences(rank: int, factor: float, slower: bool) -> None:
    ratio = factor if slower else 1 / factor
    pace = Pace().after(drift_of(TOPOLOGY, {}, {}))
    drift = drift_of(TOPOLOGY, {rank: ratio}, {})
    for number in range(STREAK):
        assert number == 0 or pace.correction() is None
        pace = pace.after(drift)
    correction = pace.correction()
    assert correction is not None
    assert set(correction.slow) == {rank}
    after = correction.apply(TOPOLOGY, range(4))
    assert after.rate(rank) * ratio == pytest.approx(TOPOLOGY.rate(rank), rel=0.05)
    assert after.rate((rank + 1) % 4) == TOPOLOGY.rate((rank + 1) % 4)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.dictionaries(st.integers(0, 3), st.floats(0.2, 5.0)), min_size=1, max_size=4))
def test_what_is_prepared_for_a_plan_serves_each_of_its_runs(runs: list[dict[int, float]]) -> None:
    prepared = Observer(even_rows(), range(4), TOPOLOGY)
    for slow in runs:
        times = times_of(even_rows(), TOPOLOGY, slow, {(1, 2): 1 + sum(slow.values())})
        assert prepared.observe(times) == observe(even_rows(), range(4), times, TOPOLOGY)


def test_messages_that_came_before_they_were_sent_tell_nothing_of_their_link() -> None:
    programs = even_rows()
    times = times_of(programs, TOPOLOGY, {}, {})
    times[1] = times[1] - 1_000_000_000  # its clock is a second behind
    drift = observe(programs, range(4), times, TOPOLOGY)
    assert drift.wire
    assert not [pair for pair in drift.wire if pair[1] == 1]
    assert all(ratio > 0 for ratio in drift.wire.values())


def test_messages_that_were_there_long_before_they_were_wanted_tell_nothing_of_their_link() -> None:
    programs = even_rows()
    times = times_of(programs, TOPOLOGY, {2: 50.0}, {})
    late = times[2].copy()
    for number, step in enumerate(programs[2].steps):
        if isinstance(step, Recv) and number:
            late[number, 0] = max(late[number, 0], late[number - 1, 1] + 1000)  # to look takes a moment
    drift = observe(programs, range(4), {**times, 2: late}, TOPOLOGY)
    assert all(ratio < 3.0 for pair, ratio in drift.wire.items() if pair[1] == 2), drift.wire


def test_a_link_that_drops_is_seen_as_soon_after_ranks_were_corrected_again_and_again() -> None:
    pace = Pace()
    for _ in range(4):
        for _ in range(2 * STREAK):
            pace = pace.after(Drift({0: 1.0, 1: 1.0, 2: 4.0}, {(0, 1): 1.0}))
        found = pace.correction()
        pace = pace if found is None else pace.corrected(found)
    for _ in range(STREAK):
        pace = pace.after(Drift({0: 1.0, 1: 1.0, 2: 1.0}, {(0, 1): 12.0}))
    found = pace.correction()
    assert found is not None and set(found.thin) == {(0, 1)}


def test_when_all_are_slower_the_plan_is_as_good_as_before() -> None:
    pace = Pace()
    for _ in range(5):
        pace = pace.after(drift_of(TOPOLOGY, dict.fromkeys(range(4), 3.0), {}))
        assert pace.correction() is None


def test_one_wild_reading_changes_nothing() -> None:
    calm, wild = Drift({0: 1.0, 1: 1.0, 2: 1.0}, {}), Drift({0: 1.0, 1: 9.0, 2: 1.0}, {})
    pace = Pace()
    for drift in (calm, wild, calm, wild, calm, calm, wild):
        pace = pace.after(drift)
        assert pace.correction() is None


def test_a_rank_that_swings_around_its_pace_does_not_thrash() -> None:
    pace = Pace()
    for number in range(20):
        pace = pace.after(Drift({0: 1.0, 1: 1.8 if number % 2 else 0.5, 2: 1.0}, {}))
        assert pace.correction() is None


def test_after_the_correction_the_same_cluster_is_as_planned() -> None:
    topology = TOPOLOGY
    pace, corrections = Pace(), 0
    for _ in range(12):
        pace = pace.after(drift_of(topology, {2: 3.0 * topology.devices[2].gamma() ** -1 * TOPOLOGY.devices[2].gamma()}, {}))
        correction = pace.correction()
        if correction is not None:
            topology, pace, corrections = correction.apply(topology, range(4)), Pace(), corrections + 1
    assert corrections == 1


def test_a_link_that_drops_tenfold_is_seen_within_two_inferences_and_when_it_recovers() -> None:
    slow_network = Topology.uniform(4, 1e9, 1e7, 1e-6, copy_s_per_byte=1e-11, step_s=1e-7)
    pace = Pace().after(drift_of(slow_network, {}, {}))
    pairs = [pair for pair in pace.usual if 3 in pair]
    assert pairs, "no message of rank 3 was long enough to tell"
    thin = dict.fromkeys([(i, 3) for i in range(3)] + [(3, i) for i in range(3)], 10.0)
    for _ in range(2):
        pace = pace.after(drift_of(slow_network, {}, thin))
    correction = pace.correction()
    assert correction is not None and correction.thin
    assert all(3 in pair for pair in correction.thin)
    after = correction.apply(slow_network, range(4))
    pair = next(iter(correction.thin))
    assert after.link(*pair).s_per_byte > 3 * slow_network.link(*pair).s_per_byte
    assert "slower" in " ".join(correction.sentences(range(4)))


def test_a_cold_first_inference_does_not_hide_a_link_that_drops() -> None:
    wire = {(0, 1): 1.2, (1, 0): 1.5}
    pace = Pace().after(Drift({}, {pair: 6.0 * seen for pair, seen in wire.items()}))
    for _ in range(5):
        pace = pace.after(Drift({}, wire))
        assert pace.correction() is None or all(ratio < 1 for ratio in pace.correction().thin.values())  # type: ignore[union-attr]
    for _ in range(2):
        pace = pace.after(Drift({}, {pair: 10.0 * seen for pair, seen in wire.items()}))
    found = pace.correction()
    assert found is not None and set(found.thin) == set(wire)
    assert all(ratio > 5 for ratio in found.thin.values())


def slow_local(program: Program, weights: Any, host: Any) -> SlowExecutable:
    return SlowExecutable(program, weights, host=host)


@pytest.mark.alone
@pytest.mark.parametrize(("scheme", "bytes_per_s"), [("auto", 2e6), ("star", 5e6)])
def test_a_link_that_drops_tenfold_in_mid_stream_is_replanned_after_two_inferences(scheme: str, bytes_per_s: float) -> None:
    """The engine on links that really take their time, of which one becomes ten times as thin."""
    hub = SlowHub(bytes_per_s)
    with FaultCluster(3, hub=hub, build=SlowExecutable, local=slow_local) as cluster:
        rate = SlowExecutable.RATE
        topology = Topology.uniform(4, rate, hub.bytes_per_s, hub.LATENCY_S, copy_s_per_byte=1e-11, step_s=1e-7)
        engine = Engine(network(), cluster.session, topology, PlanOptions(scheme, threshold=0.0))

        def traffic() -> int:
            steps = [(program.rank, step) for program in engine.programs for step in program.steps]
            return sum(step.elements for rank, step in steps if isinstance(step, Send) and 3 in (rank, step.to))

        for _ in range(3):
            assert_right(engine.run(image()).output)
        assert not [event for event in engine.events if "link" in event]
        before = traffic()
        hub.rate = lambda origin, to: hub.bytes_per_s / (10 if "worker/3" in (origin, to) else 1)
        told: list[str] = []
        for _ in range(3):
            inference = engine.run(image())
            assert_right(inference.output)
            told += inference.events
        links = [event for event in told if event.startswith("the link")]
        assert links and all("rank 3" in event and "slower" in event for event in links), told
        # How thin it is may be seen in one direction first. Rank 3 then gets less to do, or what needs no exchange.
        for _ in range(8):
            assert_right(engine.run(image()).output)
        assert traffic() < 0.8 * before
    hub.close()


def test_a_thin_card_is_told_from_a_thin_link() -> None:
    usual = {(i, j): 1.0 for i in range(4) for j in range(4) if i != j}
    for card in (True, False):
        pace = Pace().after(Drift({}, usual))
        # Into rank 3 everything is slow, or what comes from rank 2 only.
        seen = {pair: 12.0 if pair == (2, 3) else 2.0 if pair[1] == 3 and card else 1.0 for pair in usual}
        for _ in range(STREAK):
            pace = pace.after(Drift({}, seen))
        found = pace.correction()
        assert found is not None
        assert set(found.thin) == ({(0, 3), (1, 3), (2, 3)} if card else {(2, 3)})
        assert set(found.thin.values()) == {12.0}
        [told] = found.sentences(range(4))
        assert told.startswith("the links to rank 3 are 12×" if card else "the link from rank 2 to rank 3 is 12×")


def test_what_was_seen_of_a_link_outlives_the_correction_of_a_rank() -> None:
    """Both at once: after the new shares, the link that became thin is not taken for one that was always so."""
    slow_network = Topology.uniform(4, 1e9, 1e7, 1e-6, copy_s_per_byte=1e-11, step_s=1e-7)
    pace = Pace().after(drift_of(slow_network, {}, {}))
    thin = dict.fromkeys([(0, 3), (2, 3), (3, 2), (3, 0)], 10.0)
    pace = pace.after(drift_of(slow_network, {1: 3.0}, {}))
    pace = pace.after(drift_of(slow_network, {1: 3.0}, thin))
    correction = pace.correction()
    assert correction is not None and set(correction.slow) == {1} and not correction.thin
    pace, topology = pace.corrected(correction), correction.apply(slow_network, range(4))
    for _ in range(STREAK):
        assert pace.correction() is None
        pace = pace.after(observe(even_rows(), range(4), times_of(even_rows(), slow_network, {1: 3.0}, thin), topology))
        if pace.correction() is not None:
            break
    found = pace.correction()
    assert found is not None and found.thin and set(found.thin) <= set(thin)


def test_rates_that_were_measured_beside_other_work_are_called_that() -> None:
    pace = Pace()
    for _ in range(STREAK):
        pace = pace.after(Drift({0: 1 / 6.5, 1: 1.0, 2: 1.0}, {}))
    found = pace.correction(measured=True)
    assert found is not None
    assert found.sentences(range(3), frozenset()) == (
        "rates of the master were measured beside other work; corrected (6.5× faster)",
    )
    slower = Correction({1: 3.0}, {})
    assert "measured beside other work" in slower.sentences(range(3), {1})[0], "known to be disturbed"
    assert slower.sentences(range(3), frozenset()) == (
        "worker 1 is 3.0× slower than measured: other work, heat, or ranks beside it; shares changed",
    )


def test_all_ranks_that_are_faster_than_measured_are_corrected_at_once() -> None:
    topology, pace = TOPOLOGY, Pace()
    faster = {0: 0.3, 1: 0.3, 2: 0.3, 3: 0.3}
    for _ in range(STREAK):
        assert pace.correction(measured=True) is None
        pace = pace.after(Drift(faster, {}))
    assert pace.correction() is None, "rates that a person gave are only held against each other"
    found = pace.correction(measured=True)
    assert found is not None and found.ranks(range(4)) == faster
    after = found.apply(topology, range(4))
    assert all(after.rate(rank) == pytest.approx(topology.rate(rank) / 0.3) for rank in range(4))
    [said] = found.sentences(range(4), frozenset())
    assert said.startswith("rates of the master, worker 1, worker 2 and worker 3 were measured beside other work")


def test_ranks_that_are_all_somewhat_faster_are_corrected_within_five_inferences() -> None:
    pace = Pace()
    for number, ratio in enumerate((0.72, 0.6, 0.7)):
        assert pace.correction(measured=True) is None, number
        pace = pace.after(Drift(dict.fromkeys(range(3), ratio), {}))
    found = pace.correction(measured=True)
    assert found is not None and found.overall == pytest.approx(0.7), "by the middle one: the first is often cold"
    pace = pace.after(Drift(dict.fromkeys(range(3), 0.95), {}))
    assert pace.correction(measured=True) is None


def test_a_correction_of_all_ranks_is_refined_by_what_remains_and_does_not_thrash() -> None:
    pace, corrected = Pace(), []
    rate, chance = 2.0, np.random.default_rng(5)
    for number in range(60):
        ratio = float(chance.lognormal(0, 0.1)) / rate
        pace = pace.after(Drift(dict.fromkeys(range(3), ratio), {}))
        found = pace.correction(measured=True)
        if found is not None:
            corrected.append(number)
            rate *= found.overall
            pace = pace.corrected(found)
    assert rate == pytest.approx(1.0, rel=0.15)
    assert corrected[0] < 4 and len(corrected) <= 3


def test_rates_that_runs_have_corrected_are_corrected_back() -> None:
    pace = Pace().corrected(Correction({}, {}, 0.5))
    for _ in range(STREAK):
        assert pace.correction(measured=True) is None
        pace = pace.after(Drift(dict.fromkeys(range(3), 1.2), {}))
    assert pace.correction(measured=True) == Correction({}, {}, pytest.approx(1.2))


def test_of_devices_that_compute_in_bursts_one_rank_and_one_link_are_judged_late_and_the_whole_soon() -> None:
    pace = Pace().after(Drift(dict.fromkeys(range(4), 1.0), {(0, 1): 1.0, (0, 2): 1.0}, whole=1.0))
    uneven = Drift({0: 0.5, 1: 0.5, 2: 0.5, 3: 1.1}, {(0, 1): 9.0, (0, 2): 1.0}, whole=0.6)
    for _ in range(FASTER_STREAK):
        assert pace.correction(measured=True) is None
        pace = pace.after(uneven)
    found = pace.correction(measured=True)
    assert found == Correction({}, {}, pytest.approx(0.6)), "by the whole inference, and not by the time of convs"
    for _ in range(PATIENT - FASTER_STREAK):
        pace = pace.after(uneven)
    found = pace.correction()
    assert found is not None and set(found.slow) == {3} and set(found.thin) == {(0, 1)}


def test_a_plan_that_stays_is_predicted_by_the_corrected_rates() -> None:
    with FaultCluster(3, build=Stretched, local=lambda program, weights, host: Stretched(program, weights, host=host)) as c:
        slow = Topology.uniform(4, 1e8, 1e8, 1e-5, copy_s_per_byte=1e-11, step_s=1e-7)
        engine = Engine(network(), c.session, slow, PlanOptions("local"), lessons=Lessons())
        before, loaded = engine.plan, engine.loaded
        for _ in range(5):
            engine.run(image())
        assert engine.plan.same_work(before) and engine.loaded is loaded
        assert before.predicted_s is not None and engine.plan.predicted_s is not None
        assert engine.plan.predicted_s < 0.2 * before.predicted_s


def test_all_ranks_that_are_slower_keep_their_plan_and_are_measured_again() -> None:
    pace, seen = Pace(), []
    for _ in range(6):
        pace = pace.after(Drift({0: 3.0, 1: 3.0}, {}))
        assert pace.correction(measured=True) is None
        seen.append(pace.all_slower)
    assert [ratio for ratio in seen if ratio] == [3.0], "said once"


def test_linear_layers_tell_nothing_of_a_devices_rate() -> None:
    """Their time is their weights', which lie in a cache or do not: of large ones it is many times the measured one."""
    spec = ConvSpec(4096, 1000, 1, 1, (1, 1))
    step = Conv(0, spec, "w", None, None, 0, Region.whole(4096, 1, 1), 1, Region.whole(1000, 1, 1))
    programs = [Program(rank, 2, 1, ("fc",), (), (step,), {}) for rank in range(2)]
    times = {0: np.array([[0, 1_000_000]], np.int64), 1: np.array([[0, 90_000_000]], np.int64)}
    assert observe(programs, range(2), times, TOPOLOGY.subset(range(2))).compute == {}


@pytest.mark.parametrize(("slower", "seen"), [(1.0, 1.0), (2.0, 1.0), (4.0, 1.0), (8.0, 2.0), (0.5, 0.5)])
def test_ranks_that_share_cores_and_take_turns_do_not_drift(slower: float, seen: float) -> None:
    """Four ranks of two threads each on two cores: each computes up to four times slower than alone."""
    shared = tuple(replace(device, threads=2, machine="m", machine_cores=2.0) for device in TOPOLOGY.devices)
    topology = replace(TOPOLOGY, devices=shared)
    drift = observe(even_rows(), range(4), times_of(even_rows(), TOPOLOGY, dict.fromkeys(range(4), slower), {}), topology)
    assert all(ratio == pytest.approx(seen, rel=0.03) for ratio in drift.compute.values()), drift.compute


def test_ranks_of_one_machine_are_judged_by_whole_inferences() -> None:
    """Which of them has to wait for a core is the system's to say: one is called slow only after PATIENT inferences."""
    shared = tuple(replace(device, threads=2, machine="m", machine_cores=2.0) for device in TOPOLOGY.devices)
    topology = replace(TOPOLOGY, devices=shared)
    timeline = simulate(even_rows(), topology, keep_events=False)
    alike = observe(even_rows(), range(4), timeline.times[0], topology)
    assert alike.whole == pytest.approx(1.0, rel=0.02)
    half = simulate(even_rows(), topology.slowed(0.5), keep_events=False)
    found = observe(even_rows(), range(4), half.times[0], topology)
    assert found.whole == pytest.approx(0.5, rel=0.05)
    pace = Pace().after(found)
    for _ in range(2):
        pace = pace.after(replace(found, compute={0: 4.0, 1: 1.0, 2: 1.0, 3: 1.0}))
    assert pace.correction(measured=True) == Correction({}, {}, found.whole)


def test_a_common_correction_takes_messages_within_a_machine_with_it() -> None:
    link = Link(1e-3, 1e-9)
    devices = tuple(
        replace(device, machine="m" if n < 2 else "", machine_cores=2.0) for n, device in enumerate(TOPOLOGY.devices)
    )
    links = {(i, j): link for i in range(4) for j in range(4) if i != j}
    after = Correction({}, {}, 0.5).apply(Topology(devices, links), range(4))
    assert after.link(0, 1).latency_s == pytest.approx(5e-4) and after.link(0, 2).latency_s == 1e-3
    assert after.rate(3) == pytest.approx(2 * TOPOLOGY.rate(3))


class Lessons:
    """Keeps what an engine learns."""

    disturbed: frozenset[int] = frozenset()

    def __init__(self) -> None:
        self.slow: list[dict[int, float]] = []

    def learn(self, slow: Mapping[int, float], thin: Mapping[tuple[int, int], float]) -> None:
        self.slow.append(dict(slow))


def test_the_engine_hands_on_what_runs_teach() -> None:
    with FaultCluster(3, build=Stretched, local=lambda program, weights, host: Stretched(program, weights, host=host)) as c:
        lessons = Lessons()
        rates = Topology.uniform(4, 2e9, 1e8, 1e-5, copy_s_per_byte=1e-11, step_s=1e-7)
        engine = Engine(network(), c.session, rates, PlanOptions("rows"), lessons=lessons)
        events: list[str] = []
        for _ in range(8):
            events += engine.run(image()).events
        [learnt] = lessons.slow
        assert learnt[2] == pytest.approx(3.0, rel=0.1), "in absolute terms"
        assert "worker 2 is 3.0× slower than measured: other work, heat, or ranks beside it; shares changed" in events


def test_a_master_alone_learns_that_it_was_measured_beside_other_work() -> None:
    with FaultCluster(0, local=lambda program, weights, host: Stretched(program, weights, host=host)) as c:
        lessons = Lessons()
        slow = Topology.uniform(1, 2e8, 1e8, 1e-5, copy_s_per_byte=1e-11, step_s=1e-7)
        engine = Engine(network(), c.session, slow, PlanOptions("local"), lessons=lessons)
        events: list[str] = []
        for _ in range(2 * STREAK):
            events += engine.run(image()).events
        assert events == ["rates of the master were measured beside other work; corrected (10.0× faster)"]
        assert events == list(engine.events) and lessons.slow == [{0: pytest.approx(0.1, rel=0.05)}]


class Stretched(Executable):
    """Reports its convs as three times as long as they were."""

    factor = 3

    @property
    def times(self) -> NDArray[np.int64]:
        base = 1_000_000 * (self.factor if self.program.rank == 2 else 1)
        rows, last = [], 0
        for step in self.program.steps:
            cost = int(base * step.spec.macs / 1e6) if isinstance(step, Conv) else 0
            rows.append((last, last + cost))
            last += cost
        return np.array(rows, np.int64).reshape(-1, 2)


def test_the_engine_gives_a_straggler_a_smaller_share_once_and_stays_right() -> None:
    with FaultCluster(3, build=Stretched, local=lambda program, weights, host: Stretched(program, weights, host=host)) as c:
        engine = c.engine("rows", adapt=True)

        def share() -> int:
            return sum(s.spec.macs for p in engine.programs if p.rank == 2 for s in p.steps if isinstance(s, Conv))

        before = share()
        told = []
        for _ in range(8):
            inference = engine.run(image())
            assert_right(inference.output)
            told += inference.events
        assert share() < 0.7 * before
        assert len(told) == 1 and "worker 2 is 3.0× slower than planned" in told[0]
