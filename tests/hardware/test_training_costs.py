"""Training costs: what is fitted is found again, and what was not measured is assumed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogconv.errors import TopologyError
from fogconv.hardware.topology import Device
from fogconv.hardware.training_costs import REFERENCE, PassName, PassSample, fit_costs, pass_s
from fogconv.ir.geometry import ConvSpec, mirrored

_PAD = (1, 1, 1, 1)
PASSES: tuple[PassName, ...] = ("forward", "input", "weight")
SPECS = [
    ConvSpec(c, f, size, size, kernel, stride, (kernel[0] // 2,) * 4, batch=batch)
    for c, f, size in ((64, 64, 28), (256, 128, 14), (512, 512, 7), (32, 96, 56))
    for kernel in ((1, 1), (3, 3), (5, 5))
    for stride in ((1, 1), (2, 2))
    for batch in (1, 8)
]
KNOWN = Device("known", {"default": 1e-10}, training=REFERENCE)


def test_the_costs_behind_samples_are_found_again() -> None:
    samples = [PassSample(name, spec, pass_s(KNOWN, name, spec)) for spec in SPECS for name in PASSES]
    fitted = Device("fitted", {"default": 1e-10}, training=fit_costs(samples))
    unseen = ConvSpec(128, 192, 20, 20, (3, 3), padding=_PAD, batch=4)
    for name in PASSES:
        assert pass_s(fitted, name, unseen) == pytest.approx(pass_s(KNOWN, name, unseen), rel=0.05)


def test_no_cost_is_negative() -> None:
    random = [0.5, 1.7, 0.8, 1.3, 0.6, 1.9]
    samples = [
        PassSample(name, spec, pass_s(KNOWN, name, spec) * random[at % 6])
        for at, spec in enumerate(SPECS)
        for name in PASSES
    ]
    assert min(fit_costs(samples).values()) >= 0


@given(st.sampled_from(PASSES), st.sampled_from(SPECS), st.floats(0.1, 10))
def test_a_device_that_is_faster_in_all_is_faster_by_as_much(name: PassName, spec: ConvSpec, rate: float) -> None:
    for device in (KNOWN, Device("assumed", {"default": 1e-10}, copy_s_per_byte=1e-10, threads=2)):
        assert pass_s(device.scaled(rate), name, spec) == pytest.approx(pass_s(device, name, spec) / rate)


def test_kernels_of_one_thread_gain_nothing_by_more() -> None:
    """γ is of all threads: with four times as many and the same γ, each is a quarter as fast."""
    one, four = (Device("board", {"default": 1e-10}, threads=threads) for threads in (1, 4))
    spec = ConvSpec(128, 128, 28, 28, (3, 3), padding=_PAD, batch=8)
    assert pass_s(four, "weight", spec) == pytest.approx(4 * pass_s(one, "weight", spec))


def test_a_kernel_class_without_a_sample_costs_as_much_as_the_slowest() -> None:
    device = replace(KNOWN, training={key: cost for key, cost in REFERENCE.items() if "grouped" not in key})
    grouped = ConvSpec(64, 64, 14, 14, (3, 3), padding=_PAD, groups=4)
    slowest = max(cost for key, cost in REFERENCE.items() if key.startswith("weight s/MAC") and "grouped" not in key)
    assert pass_s(device, "weight", grouped) >= slowest * grouped.macs


@given(st.sampled_from(SPECS))
def test_the_gradient_of_the_input_at_stride_1_is_a_conv_of_as_many_macs(spec: ConvSpec) -> None:
    turned = mirrored(spec)
    assert (turned is not None) == (spec.stride == (1, 1))
    if turned is not None:
        assert turned.output_shape == spec.input_shape and turned.input_shape == spec.output_shape
        assert turned.weight_elements == spec.weight_elements


def test_impossible_costs_are_refused() -> None:
    with pytest.raises(TopologyError, match="training cost"):
        Device("board", {"default": 1e-10}, training={"forward s": -1.0})
