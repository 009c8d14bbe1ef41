"""The simulator: by hand where one can, and never faster than its parts."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogconv.errors import ClusterError, InputError
from fogconv.hardware.topology import Device, Link, Topology
from fogconv.ir.geometry import ConvSpec, Region, Span
from fogconv.ir.memory.swapping import read_bytes
from fogconv.ir.program import Program
from fogconv.ir.steps import Buffer, Conv, Recv, Send
from fogconv.simulation.simulator import Disturbance, simulate

SPEC = ConvSpec(16, 16, 8, 8, (1, 1))
WHOLE = Region.whole(16, 8, 8)
BYTES = 16 * 8 * 8 * 4
GAMMA, ALPHA, BETA = 1e-6, 0.5, 1e-3


def topology(ranks: int, *, gamma: float = GAMMA, alpha: float = ALPHA, beta: float = BETA) -> Topology:
    return Topology((Device("d", {"default": gamma}),) * ranks, {}, Link(alpha, beta))


def conv(region: Region = WHOLE) -> Conv:
    return Conv(0, SPEC, "w", None, None, 0, region, 1, region)


def program(rank: int, ranks: int, *steps: object) -> Program:
    return Program(rank, ranks, 1, ("layer",), (Buffer("x", WHOLE), Buffer("y", WHOLE)), steps, {})  # type: ignore[arg-type]


def star(workers: int) -> list[Program]:
    """The master sends all workers the whole map; each computes, and sends it back."""
    sends = [Send(0, 0, WHOLE, rank, rank) for rank in range(1, workers + 1)]
    receives = [Recv(0, 1, WHOLE, rank, 100 + rank) for rank in range(1, workers + 1)]
    each = [
        program(rank, workers + 1, Recv(0, 0, WHOLE, 0, rank), conv(), Send(0, 1, WHOLE, 0, 100 + rank))
        for rank in range(1, workers + 1)
    ]
    return [program(0, workers + 1, *sends, *receives), *each]


def test_computing_takes_gamma_times_macs() -> None:
    found = simulate([program(0, 1, conv(), conv())], topology(1))
    assert found.latencies_s == (pytest.approx(2 * SPEC.macs * GAMMA),)
    assert found.busy_s == (pytest.approx(2 * SPEC.macs * GAMMA),)


def test_swapped_weights_are_read_before_each_use() -> None:
    swapped = msgspec.structs.replace(program(0, 1, conv(), conv()), weights={"w": SPEC.weight_shape}, swapped=("w",))
    device = Device("d", {"default": GAMMA}, read_bytes_per_s=1e6)
    reading_s = read_bytes(swapped) / 1e6
    assert reading_s >= 2 * SPEC.weight_elements * 4 / 1e6
    found = simulate([swapped], Topology((device,)))
    assert found.latencies_s == (pytest.approx(2 * SPEC.macs * GAMMA + reading_s),)


def test_ranks_of_one_machine_take_turns_on_its_cores() -> None:
    for ranks, cores, slower in ((2, 2.0, 1.0), (4, 2.0, 2.0), (3, 1.0, 3.0)):
        device = Device("d", {"default": GAMMA}, machine="m", machine_cores=cores)
        found = simulate(
            [program(rank, ranks, conv()) for rank in range(ranks)], Topology((device,) * ranks, {}, Link(0.0, BETA))
        )
        assert found.total_s == pytest.approx(slower * SPEC.macs * GAMMA, rel=0.15)


def test_ranks_of_one_machine_take_turns_on_its_cores_for_their_messages_too() -> None:
    """Two pairs exchange a message at the same time, on one core; or each rank on a core of its own."""
    alone = Device("d", {"default": GAMMA}, message_s=0.25, send_s_per_byte=BETA, receive_s_per_byte=BETA)
    shared = replace(alone, machine="m", machine_cores=1.0)
    programs = [
        program(0, 4, Send(0, 0, WHOLE, 1, 1)),
        program(1, 4, Recv(0, 0, WHOLE, 0, 1)),
        program(2, 4, Send(0, 0, WHOLE, 3, 2)),
        program(3, 4, Recv(0, 0, WHOLE, 2, 2)),
    ]
    apart, together = (
        simulate(programs, Topology((device,) * 4, {}, Link(0.0, BETA / 100))).total_s for device in (alone, shared)
    )
    assert together > 1.8 * apart


def test_a_message_takes_its_bytes_and_the_latency() -> None:
    """Out and back; it leaves one card and enters the other at the same time."""
    found = simulate(star(1), topology(2))
    one_way = ALPHA + BYTES * BETA
    assert found.latencies_s[0] == pytest.approx(2 * one_way + SPEC.macs * GAMMA, rel=1e-6)
    assert found.card_bytes == ((BYTES, BYTES), (BYTES, BYTES))


def test_the_masters_card_is_shared() -> None:
    """Four times the bytes through one card take four times as long; the workers' cards have room."""
    free = topology(5, gamma=1e-12, alpha=0.0)
    one, four = (simulate(star(n), free).latencies_s[0] for n in (1, 4))
    assert four == pytest.approx(4 * one, rel=0.1)


def test_both_directions_of_a_card_work_at_once() -> None:
    there = [program(0, 2, Send(0, 0, WHOLE, 1, 1), Recv(0, 1, WHOLE, 1, 2))]
    there += [program(1, 2, Send(0, 0, WHOLE, 0, 2), Recv(0, 1, WHOLE, 0, 1))]
    assert simulate(there, topology(2, alpha=0.0)).latencies_s[0] == pytest.approx(BYTES * BETA, rel=1e-6)


def test_workers_on_one_access_point_share_it() -> None:
    cables = simulate(star(4), topology(5)).latencies_s[0]
    rate = 1 / BETA
    shared = simulate(star(4), topology(5), access_points=dict.fromkeys(range(1, 5), 0), access_point_bytes_per_s=rate / 4)
    apart = simulate(star(4), topology(5), access_points={r: r for r in range(1, 5)}, access_point_bytes_per_s=rate / 4)
    assert shared.latencies_s[0] > 3 * cables
    assert cables < apart.latencies_s[0] < shared.latencies_s[0]


def test_a_straggler_holds_up_the_answer_and_says_so() -> None:
    even = simulate(star(3), topology(4))
    slow = simulate(star(3), topology(4), disturbance=Disturbance({2: 10.0}))
    assert slow.latencies_s[0] == pytest.approx(even.latencies_s[0] + 9 * SPEC.macs * GAMMA, rel=0.05)
    assert slow.busy_s[2] == pytest.approx(10 * slow.busy_s[1])


def test_jitter_is_seeded() -> None:
    runs = [simulate(star(2), topology(3), disturbance=Disturbance(jitter=0.3, seed=seed)) for seed in (1, 1, 2)]
    assert runs[0].latencies_s == runs[1].latencies_s != runs[2].latencies_s


def test_inferences_in_flight_overlap() -> None:
    one_by_one = simulate(star(1), topology(2), inferences=4)
    overlapped = simulate(star(1), topology(2), inferences=4, in_flight=2)
    assert one_by_one.total_s == pytest.approx(sum(one_by_one.latencies_s))
    assert overlapped.total_s <= one_by_one.total_s


def relayed() -> list[Program]:
    """Two workers, one after the other: each computes as long as the other."""
    return [
        program(0, 3, Send(0, 0, WHOLE, 1, 1), Recv(0, 1, WHOLE, 2, 3)),
        program(1, 3, Recv(0, 0, WHOLE, 0, 1), conv(), Send(0, 1, WHOLE, 2, 2)),
        program(2, 3, Recv(0, 0, WHOLE, 1, 2), conv(), Send(0, 1, WHOLE, 0, 3)),
    ]


def test_the_slowest_stage_decides_how_many_frames_pass() -> None:
    compute_s = SPEC.macs * GAMMA
    rates = topology(3, alpha=0.0, beta=compute_s / BYTES / 100)
    one = simulate(relayed(), rates, inferences=12)
    assert one.frames_per_s == pytest.approx(1 / (2 * compute_s), rel=0.05)
    assert simulate(relayed(), rates, inferences=12, in_flight=3).frames_per_s == pytest.approx(1 / compute_s, rel=0.05)


def test_a_rank_computes_the_oldest_inference_first_and_another_while_that_waits() -> None:
    """The worker has two convs per inference, and waits for the master between them for as long as one takes."""
    first, last = (Send(0, 0, WHOLE, 1, 1), Recv(0, 0, WHOLE, 1, 2)), (Send(0, 1, WHOLE, 1, 3), Recv(0, 1, WHOLE, 1, 4))
    programs = [
        program(0, 2, *first, conv(), *last),
        program(
            1, 2, Recv(0, 0, WHOLE, 0, 1), conv(), Send(0, 1, WHOLE, 0, 2), Recv(0, 0, WHOLE, 0, 3), conv(),
            Send(0, 1, WHOLE, 0, 4),
        ),
    ]  # fmt: skip
    compute_s = SPEC.macs * GAMMA
    rates = topology(2, alpha=0.0, beta=compute_s / BYTES / 100)
    assert simulate(programs, rates, inferences=9).frames_per_s == pytest.approx(1 / (3 * compute_s), rel=0.1)
    assert simulate(programs, rates, inferences=9, in_flight=2).frames_per_s == pytest.approx(1 / (2 * compute_s), rel=0.1)


def test_plans_beside_each_other_take_frames_by_their_rates() -> None:
    compute_s = SPEC.macs * GAMMA
    rates = topology(2, alpha=0.0, beta=compute_s / BYTES / 100)
    slow = rates.replace_device(1, rates.devices[1].scaled(1 / 3))
    home, away = [program(0, 2, conv()), program(1, 2)], star(1)
    found = simulate(home, slow, inferences=40, in_flight=2, beside=[away])
    assert found.frames_per_s == pytest.approx(4 / 3 / compute_s, rel=0.05)
    assert found.lanes.count(0) == pytest.approx(30, abs=2)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.floats(1e-9, 1e-3), st.floats(0, 0.1))
def test_no_simulation_beats_its_busiest_card_or_its_busiest_rank(workers: int, beta: float, alpha: float) -> None:
    found = simulate(star(workers), topology(workers + 1, alpha=alpha, beta=beta))
    card = max(max(pair) for pair in found.card_bytes) * beta
    assert found.latencies_s[0] >= max(card, *found.busy_s) * (1 - 1e-9)


def test_the_timeline_holds_every_step_and_transfer() -> None:
    found = simulate(star(2), topology(3))
    kinds = [event.kind for event in found.events]
    assert kinds.count("conv") == 2
    assert kinds.count("transfer") == 4
    assert {event.rank for event in found.events} == {0, 1, 2}
    assert all(0 <= event.begin_s <= event.end_s <= found.total_s for event in found.events)


def test_a_thousand_workers_are_simulated() -> None:
    found = simulate(star(1024), topology(1025, alpha=1e-4, beta=1e-9), keep_events=False)
    assert found.latencies_s[0] >= 1024 * BYTES * 1e-9


def test_programs_that_wait_for_ever_are_refused() -> None:
    with pytest.raises(ClusterError, match="no rank sends"):
        simulate([program(0, 2, Recv(0, 0, WHOLE, 1, 7)), program(1, 2)], topology(2))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="ranks"):
        simulate(star(3), topology(2))
    with pytest.raises(InputError, match="from 1 to"):
        simulate(star(1), topology(2), inferences=0)
    with pytest.raises(InputError, match="slower"):
        simulate(star(1), topology(2), disturbance=Disturbance({5: 2.0}))
    with pytest.raises(InputError, match="access point"):
        simulate(star(1), topology(2), access_points={1: 0})


def test_messages_take_the_processor_at_both_ends() -> None:
    """A first chunk's handling can't be hidden behind the wire, nor can the last one's; the others' can."""
    device = Device("d", {"default": GAMMA}, message_s=0.25, send_s_per_byte=BETA / 4, receive_s_per_byte=BETA / 2)
    programs = [program(0, 2, Send(0, 0, WHOLE, 1, 1)), program(1, 2, Recv(0, 0, WHOLE, 0, 1))]
    found = simulate(programs, Topology((device, device), {}, Link(2.0, BETA)))
    chunk = BYTES / 4
    # α as a ping measures it holds both ends' handling of the message.
    start = 0.25
    expected = start + 0.25 + chunk * BETA / 4 + BYTES * BETA + 1.5 + chunk * BETA / 2 + 0.25
    assert found.times[0][1][-1, 0] == pytest.approx(expected * 1e9)


def test_messages_to_one_rank_arrive_in_the_order_in_which_they_were_sent() -> None:
    half = WHOLE.with_channels(Span(0, 8))
    sender = program(0, 2, Send(0, 0, WHOLE, 1, 1), Send(0, 0, half, 1, 2))
    receiver = program(1, 2, Recv(0, 0, half, 0, 2), Recv(0, 0, WHOLE, 0, 1))
    times = simulate([sender, receiver], topology(2)).times[0][1]
    assert times[0, 0] == pytest.approx((ALPHA + 1.5 * BYTES * BETA) * 1e9)


def test_a_shaped_link_lets_the_first_bytes_pass_at_once() -> None:
    programs = [program(0, 2, Send(0, 0, WHOLE, 1, 1)), program(1, 2, Recv(0, 0, WHOLE, 0, 1))]
    link = Link(0.0, BETA, burst_bytes=BYTES / 4)
    found = simulate(programs, Topology((Device("d", {"default": GAMMA}),) * 2, {}, link))
    assert found.latencies_s[0] == 0.0
    assert found.total_s == pytest.approx(0.75 * BYTES * BETA)


def test_a_throttled_rank_computes_at_its_share_in_the_long_run() -> None:
    long_run_s = 100 * SPEC.macs * GAMMA
    device = Device("d", {"default": GAMMA}, share=0.2, period_s=0.05, tick_s=0.01)
    found = simulate([program(0, 1, *[conv()] * 100)], Topology((device,)))
    assert found.latencies_s[0] == pytest.approx(long_run_s, rel=0.05)


def test_times_are_as_a_run_reports_them() -> None:
    """(begin, end) in ns of every step of every inference; a Recv begins when its message is there."""
    found = simulate(star(2), topology(3), inferences=2)
    assert len(found.times) == 2
    for times in found.times:
        assert set(times) == {0, 1, 2}
        for rank, found_times in times.items():
            assert found_times.shape == ((4, 2) if rank == 0 else (3, 2))
            assert (found_times[:, 0] <= found_times[:, 1]).all()
            assert (found_times[1:, 0] >= found_times[:-1, 1]).all()


def test_a_region_in_part_costs_its_part() -> None:
    half = WHOLE.with_channels(Span(0, 8))
    programs = [program(0, 2, Send(0, 0, half, 1, 1)), program(1, 2, Recv(0, 0, half, 0, 1))]
    assert simulate(programs, topology(2)).card_bytes[0] == (BYTES / 2, 0.0)
