"""The sizes at which predictors learn and are judged are those of nets, of every type of step."""

from __future__ import annotations

from fogconv.calibration.sample_sizes import NET_STEPS, random_convs, random_maps, sample_steps, spread_convs
from fogconv.hardware.latency.features import MAP_KINDS, amount, step_type
from fogconv.hardware.topology import KERNEL_CLASSES
from fogconv.ir.geometry import ConvSpec


def test_random_steps_are_seeded_and_of_every_type() -> None:
    assert random_convs(50, seed=1) == random_convs(50, seed=1) != random_convs(50, seed=2)
    assert {step_type(spec) for spec in random_convs(200)} == set(KERNEL_CLASSES)
    assert all(spec.macs <= 1_000_000 for spec in random_convs(20, most_macs=1_000_000))
    assert random_maps(30, seed=1) == random_maps(30, seed=1) != random_maps(30, seed=2)
    assert {spec.kind for spec in random_maps(30)} == set(MAP_KINDS)


def test_samples_reach_the_largest_layers_of_nets() -> None:
    """Judged on convs of up to 20 M MACs, a class's mean was chosen, and priced one of 462 M MACs at 0.6 ms."""
    largest = max(amount(spec) for spec in NET_STEPS if isinstance(spec, ConvSpec))
    convs = spread_convs(150)
    assert largest > 1.8e9 and max(spec.macs for spec in convs) > 1e9
    assert sum(spec.macs > 20_000_000 for spec in convs) > 50
    assert sum(spec.macs for spec in convs) < 60e9, "a Raspberry Pi takes a minute for 60 GMAC, four times over"


def test_every_step_is_timed_once_and_convs_first() -> None:
    steps = sample_steps(150, 54)
    assert len(set(steps)) == len(steps) and set(NET_STEPS) <= set(steps)
    convs = [isinstance(spec, ConvSpec) for spec in steps]
    assert convs == sorted(convs, reverse=True)
