"""Devices and links: directional, uneven, and refused where they can't be."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fogconv.errors import TopologyError
from fogconv.hardware.topology import KERNEL_CLASSES, Device, Link, Topology, kernel_class
from fogconv.ir.geometry import ConvSpec, MapSpec

PI = Device("pi", {"default": 1e-10, "depthwise": 5e-10})
SLOW, FAST = Link(1e-3, 8e-8), Link(1e-4, 8e-9)


def star(*links: tuple[Link, Link]) -> Topology:
    pairs = {(0, i): there for i, (there, _) in enumerate(links, start=1)}
    pairs |= {(i, 0): back for i, (_, back) in enumerate(links, start=1)}
    return Topology((PI,) * (len(links) + 1), pairs)


def test_a_uniform_topology_has_equal_devices_and_links() -> None:
    topology = Topology.uniform(4, 10e9, 12.5e6, 5e-4)
    assert len(topology) == 4 and list(topology.workers) == [1, 2, 3]
    assert all(topology.rate(rank) == pytest.approx(5e9) for rank in topology.ranks)
    assert topology.link(0, 3) == topology.link(2, 1) == Link(5e-4, 8e-8)
    assert topology.card(2) == (8e-8, 8e-8)


def test_a_rank_reaches_itself_at_no_cost() -> None:
    assert Topology.uniform(2, 1e9, 1e6, 1.0).link(1, 1).seconds(10**9) == 0


def test_links_are_directional() -> None:
    topology = star((FAST, SLOW))
    assert topology.link(0, 1) is FAST and topology.link(1, 0) is SLOW
    assert topology.card(0) == (FAST.s_per_byte, SLOW.s_per_byte)


def test_a_link_between_workers_is_as_fast_as_the_slower_card() -> None:
    topology = star((FAST, FAST), (SLOW, SLOW))
    assert topology.link(1, 2).s_per_byte == SLOW.s_per_byte
    assert topology.link(1, 2).latency_s == SLOW.latency_s
    assert topology.card(0) == (FAST.s_per_byte, FAST.s_per_byte)


def test_a_measured_link_between_workers_counts_as_measured() -> None:
    topology = star((FAST, FAST), (FAST, FAST))
    measured = Topology(topology.devices, {**topology.links, (1, 2): SLOW})
    assert measured.link(1, 2) is SLOW
    assert measured.link(2, 1).s_per_byte == FAST.s_per_byte


def test_a_lost_worker_leaves_the_others_renumbered() -> None:
    topology = star((FAST, FAST), (SLOW, SLOW), (FAST, SLOW))
    left = topology.without(1)
    assert len(left) == 3
    assert left.link(0, 1) is SLOW and left.link(2, 0) is SLOW and left.link(0, 2) is FAST
    for rank in (0, 4, -1):
        with pytest.raises(TopologyError):
            topology.without(rank)


def test_a_missing_link_is_named() -> None:
    with pytest.raises(TopologyError, match="2→0 is missing"):
        Topology((PI,) * 3, {(0, 1): FAST, (1, 0): FAST, (0, 2): FAST})
    with pytest.raises(TopologyError, match="0→5"):
        Topology((PI,) * 2, {(0, 1): FAST, (1, 0): FAST, (0, 5): FAST})
    with pytest.raises(TopologyError, match="at least one"):
        Topology(())


@pytest.mark.parametrize("gamma", [0.0, -1e-9, math.nan, math.inf])
def test_rates_that_cannot_be_are_refused(gamma: float) -> None:
    with pytest.raises(TopologyError, match="must be positive"):
        Device("x", {"default": 1e-9, "direct": gamma})
    with pytest.raises(TopologyError):
        Device("x", {"default": 1e-9}, copy_s_per_byte=-1 if gamma <= 0 else gamma)
    with pytest.raises(TopologyError):
        Link(-1e-9 if gamma == 0 else gamma, 1e-9)


@pytest.mark.parametrize(
    "arguments", [(0, 1e9, 1e6), (2, 0, 1e6), (2, 1e9, 0), (2, -1e9, 1e6), (2, 1e9, -1e6), (2, 1e9, 1e6, -1)]
)
def test_a_uniform_topology_of_nothing_is_refused(arguments: tuple[float, ...]) -> None:
    with pytest.raises(TopologyError):
        Topology.uniform(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, -1, 10**16, 10**400])
def test_a_count_beyond_all_devices_is_refused(count: int) -> None:
    """A profile with a count of 400 digits was taken, and ended `fogconv plan` in an OverflowError."""
    for made in (
        lambda: Link(1e-3, 8e-8, message_elements=count),
        lambda: Device("pi", {"default": 1e-10}, memory_bytes=count),
        lambda: Device("pi", {"default": 1e-10}, threads=count),
    ):
        with pytest.raises(TopologyError, match="it must be at least 1") as caught:
            made()
        assert len(str(caught.value)) < 120


def test_a_device_needs_a_default_rate() -> None:
    with pytest.raises(TopologyError, match="default"):
        Device("x", {"direct": 1e-9})


def test_a_kernel_class_falls_back_to_the_default() -> None:
    assert PI.gamma("depthwise") == 5e-10
    assert PI.gamma("winograd") == PI.gamma("default") == 1e-10
    assert PI.scaled(2).gamma("depthwise") == 2.5e-10


def test_messages_cost_alpha_each_and_elements_beta() -> None:
    link = Link(0.5, 0.25, message_elements=10)
    assert link.seconds(0) == 0
    assert link.seconds(10) == 0.5 + 10
    assert link.seconds(11) == 1.0 + 11
    assert link.seconds(11, bytes_per_element=2) == 1.0 + 5.5
    assert Link(0.5, 0.25).seconds(10**6) == 0.5 + 10**6


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (ConvSpec(64, 64, 14, 14, (1, 1)), "direct1x1"),
        (ConvSpec(64, 64, 14, 14, (3, 3)), "winograd"),
        (ConvSpec(64, 64, 14, 14, (3, 3), stride=(2, 2)), "direct"),
        (ConvSpec(64, 64, 14, 14, (1, 7)), "direct"),
        (ConvSpec(3, 64, 14, 14, (3, 3)), "first"),
        (ConvSpec(64, 64, 14, 14, (3, 3), groups=64), "depthwise"),
        (ConvSpec(64, 64, 14, 14, (3, 3), groups=32), "grouped"),
        (ConvSpec(512, 1000, 7, 7, (7, 7)), "linear"),
    ],
)
def test_every_conv_has_a_kernel_class(spec: ConvSpec, kind: str) -> None:
    assert kernel_class(spec) == kind
    assert kind in KERNEL_CLASSES
    # Winograd's algorithm computes 16 bits, too, and no 8-bit sums, which are exact.
    assert kernel_class(replace(spec, element="bf16")) == f"bf16_{kind}"
    assert kernel_class(replace(spec, element="uint8")) == f"int8_{'direct' if kind == 'winograd' else kind}"


def crowd(threads: int, *machines: str, cores: float = 2.0) -> Topology:
    devices = tuple(
        Device(f"rank {rank}", {"default": 1e-10}, threads=threads, machine=machine, machine_cores=cores)
        for rank, machine in enumerate(machines)
    )
    return Topology(devices, {}, Link(1e-5, 1e-9))


def test_ranks_of_one_machine_share_its_cores() -> None:
    work = dict.fromkeys(range(4), 1.0)
    assert crowd(1, "a", "a", "a", "a").together_s(work) == 2.0, "four threads on two cores"
    assert crowd(1, "a", "a", "b", "b").together_s(work) == 1.0, "a core for each"
    assert crowd(2, "a", "a", "b", "c").together_s(work) == 2.0, "the busiest machine decides"
    assert crowd(9, "a", "a", "b", "c").together_s(work) == 2.0, "more threads than cores do no more"
    assert crowd(2, "", "", "", "").together_s(work) == 1.0, "each on a machine of its own"
    assert crowd(2, "a", "a", "a", "a", cores=0.0).together_s(work) == 1.0, "whose cores nobody counted"
    assert crowd(2, "a", "a").together_s({0: 1.0}) == 1.0, "whoever rests leaves the cores to the others"
    assert crowd(2, "a", "a").together_s({0: 3.0, 1: 1.0}) == 4.0


def test_a_rank_that_seems_too_fast_adds_nothing_to_a_machine_that_another_has_all_cores_of() -> None:
    """One thread that was measured beside other work at the rate of both cores together."""
    both = crowd(2, "a", "a")
    odd = both.replace_device(1, Device("odd", {"default": 1e-10}, threads=1, machine="a", machine_cores=2.0))
    assert odd.together_s({0: 0.5, 1: 0.5}) == 1.0


def test_crowding_is_the_most_that_sharing_slows_a_rank_down() -> None:
    assert crowd(1, "a", "a", "a", "b").crowding([0, 1, 2, 3]) == {0: 1.5, 1: 1.5, 2: 1.5, 3: 1.0}
    assert crowd(1, "a", "a", "a", "b").crowding([0, 3]) == {0: 1.0, 3: 1.0}
    assert crowd(4, "a", "a").crowding([0, 1]) == {0: 2.0, 1: 2.0}


def test_maps_beyond_the_caches_cost_more_and_channels_count_as_whole_blocks() -> None:
    rates = {"default": 2e-11, "pool": 3e-11, "transpose": 4e-11, "conv": 1e-11}
    far = {"default": 1e-11, "transpose": 0.0, "conv": 2e-11}
    device = Device("pi", {"default": 1e-10}, map_s_per_byte=rates, far_s_per_byte=far)
    small, large = (MapSpec("add", 24, size, size, sources=2) for size in (56, 512))
    assert device.work_s(small) == pytest.approx(3 * 4 * 32 * 56**2 * 2e-11)
    assert device.work_s(large) == pytest.approx(3 * 4 * 32 * 512**2 * 3e-11)
    between = MapSpec("pool", 16, 250, 250)
    per_byte = device.work_s(between) / (4 * between.touched)
    assert 3e-11 < per_byte < 4e-11
    assert device.work_s(MapSpec("transpose", 3, 4096, 4096)) == pytest.approx(4 * (3 + 4) * 4096**2 * 4e-11)
    conv = ConvSpec(24, 4, 1024, 1024, (1, 1))
    assert conv.map_elements == (32 + 4) * 1024**2
    assert device.work_s(conv) == pytest.approx(conv.macs * 1e-10 + 4 * conv.map_elements * 3e-11)
    assert device.scaled(2).work_s(conv) == pytest.approx(device.work_s(conv) / 2)
    assert Device("pi", {"default": 1e-10}).work_s(conv) == pytest.approx(conv.macs * 1e-10)
