"""Figures with units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogconv.errors import InputError
from fogconv.hardware.units import (
    bandwidth_bytes_per_s,
    rate_flop_per_s,
    seconds,
    show_bandwidth,
    show_rate,
    show_seconds,
    sweep,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [("10GFLOP/s", 1e10), ("5 GMAC/s", 1e10), ("10gflops", 1e10), ("2e9", 2e9), ("1.5TFLOP/s", 1.5e12), ("3FLOP/s", 3)],
)
def test_rates(text: str, value: float) -> None:
    assert rate_flop_per_s(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("100Mbit/s", 12.5e6),
        ("1Gbit", 125e6),
        ("100 Mbps", 12.5e6),
        ("12.5MB/s", 12.5e6),
        ("1MiB/s", 2**20),
        ("800bit/s", 100),
        ("7", 7),
    ],
)
def test_bandwidths(text: str, value: float) -> None:
    assert bandwidth_bytes_per_s(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"), [("0.5ms", 5e-4), ("200us", 2e-4), ("200 µs", 2e-4), ("3", 3), ("7ns", 7e-9), ("0s", 0)]
)
def test_times(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "fast", "0", "-1Gbit", "nan", "inf", "1e999", "3Xbit", "1 2"])
def test_bandwidths_that_cannot_be(text: str) -> None:
    with pytest.raises(InputError, match="bandwidth"):
        bandwidth_bytes_per_s(text)


@pytest.mark.parametrize("text", ["10 horses", "0GFLOP/s", "-1GFLOP/s", "GFLOP/s"])
def test_rates_that_cannot_be(text: str) -> None:
    with pytest.raises(InputError, match="rate"):
        rate_flop_per_s(text)


@pytest.mark.parametrize("text", ["-1ms", "1 fortnight", "soon"])
def test_times_that_cannot_be(text: str) -> None:
    with pytest.raises(InputError, match="time"):
        seconds(text)


def test_sweeps() -> None:
    assert sweep("bandwidth=10Mbit..10Gbit") == ("bandwidth", 1.25e6, 1.25e9)
    for text in ("bandwidth", "bandwidth=1Mbit", "depth=1..2", "latency=2ms..1ms", "latency=0..1ms"):
        with pytest.raises(InputError, match="sweep"):
            sweep(text)


@given(st.floats(1e-3, 1e13))
def test_what_is_shown_can_be_read_again(value: float) -> None:
    assert bandwidth_bytes_per_s(show_bandwidth(value)) == pytest.approx(value, rel=0.01)
    assert rate_flop_per_s(show_rate(value)) == pytest.approx(value, rel=0.01)


@given(st.floats(1e-8, 1e4))
def test_times_are_shown_with_three_digits(value: float) -> None:
    assert seconds(show_seconds(value)) == pytest.approx(value, rel=0.01)
