"""Energy: power over time, and what bytes cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogconv.errors import TopologyError
from fogconv.hardware.energy import joules, without_energy
from fogconv.hardware.presets import presets
from fogconv.hardware.profile import Profile
from fogconv.hardware.topology import Device, Link, Topology

GAMMA = {"default": 1e-10}


def test_a_device_takes_its_busy_power_then_its_idle_power() -> None:
    devices = (Device("a", GAMMA, idle_watts=2, busy_watts=6), Device("b", GAMMA, idle_watts=1, busy_watts=4))
    topology = Topology(devices, {}, Link(0, 1e-8, joules_per_byte=1e-6))
    spent = joules(topology, latency_s=2.0, busy_s=[2.0, 0.5], macs=[0, 0], sent_bytes={(0, 1): 1000, (1, 0): 500})
    assert spent == pytest.approx(6 * 2 + 4 * 0.5 + 1 * 1.5 + 1500e-6)


def test_joules_per_mac_count_where_no_power_is_known() -> None:
    topology = Topology((Device("a", GAMMA, joules_per_mac=1e-9),))
    assert joules(topology, latency_s=1, busy_s=[1], macs=[3e9], sent_bytes={}) == pytest.approx(3)


@given(st.floats(0, 1), st.floats(0.1, 10))
def test_energy_lies_between_idling_and_computing_all_the_time(share: float, latency_s: float) -> None:
    topology = Topology((Device("a", GAMMA, idle_watts=2, busy_watts=6),))
    spent = joules(topology, latency_s=latency_s, busy_s=[share * latency_s], macs=[0], sent_bytes={})
    assert 2 * latency_s * 0.999 <= spent <= 6 * latency_s * 1.001


def test_every_preset_has_its_power_and_its_source() -> None:
    for name, preset in presets().items():
        assert without_energy(preset.topology(2)) == ()
        assert 0 < preset.idle_watts < preset.watts, name
        assert "idle_watts" in preset.sources, name
        estimated = preset.sources["idle_watts"].startswith("estimate")
        assert estimated == ("idle_watts" in preset.estimates), name


def test_a_profile_keeps_it_and_a_measured_device_has_none() -> None:
    topology = presets()["pi4"].topology(1)
    assert Profile.of(topology).topology().devices[1].busy_watts == 7.2
    assert without_energy(Topology((Device("a", GAMMA), Device("b", GAMMA, busy_watts=1)), {}, Link(0, 1e-8))) == (0,)


def test_power_is_not_negative() -> None:
    with pytest.raises(TopologyError, match="idle_watts"):
        Device("a", GAMMA, idle_watts=-1)
