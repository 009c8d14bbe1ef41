"""Two results: which is faster, and where it is only noise."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogconv.benchmark.comparison import Row, compare
from fogconv.benchmark.record import Item
from tests.benchmark.test_record import MACHINE, record

NAMES = ("A", "B")


def item(seconds: float, spread: float = 0.02, runs: int = 20, name: str = "resnet18", group: str = "nets") -> Item:
    low, high = seconds * (1 - spread / 2), seconds * (1 + spread / 2)
    return Item(group, name, seconds, (low, high), runs)  # type: ignore[arg-type]


def test_a_ratio_says_how_many_times_as_fast_the_second_is() -> None:
    row = Row(item(0.2), item(0.1))
    assert row.ratio == pytest.approx(2) and not row.within_noise


def test_overlapping_runs_are_noise() -> None:
    assert Row(item(0.100, 0.2), item(0.110, 0.2)).within_noise
    assert not Row(item(0.100, 0.02), item(0.110, 0.02)).within_noise


def test_few_runs_are_less_certain() -> None:
    assert not Row(item(0.100, 0.05, 100), item(0.110, 0.05, 100)).within_noise
    assert Row(item(0.100, 0.05, 2), item(0.110, 0.05, 2)).within_noise


@given(st.floats(1e-6, 10), st.floats(1e-6, 10), st.floats(0, 1), st.integers(1, 50))
def test_the_other_way_round_says_the_same(one: float, other: float, spread: float, runs: int) -> None:
    there, back = Row(item(one, spread, runs), item(other, 0.1)), Row(item(other, 0.1), item(one, spread, runs))
    assert there.within_noise == back.within_noise
    assert there.ratio * back.ratio == pytest.approx(1)
    assert Row(there.first, there.first).within_noise


def test_means_are_geometric_and_per_group() -> None:
    first = record(items=(item(0.4, name="a"), item(0.1, name="b"), item(0.3, name="k", group="kernels")))
    second = record(items=(item(0.1, name="a"), item(0.1, name="b"), item(0.1, name="k", group="kernels")))
    found = compare(first, second, NAMES)
    assert found.mean("nets") == pytest.approx(2) and found.mean("kernels") == pytest.approx(3)
    assert found.mean() == pytest.approx(12 ** (1 / 3)) and found.mean("links") is None
    assert found.as_json()["means"] == pytest.approx({"nets": 2, "kernels": 3})


def test_items_that_one_lacks_are_named() -> None:
    found = compare(record(items=(item(1, name="a"),)), record(items=(item(1, name="b"),)), NAMES)
    assert (found.rows, found.only_first, found.only_second, found.mean()) == ((), ("a",), ("b",), None)


def test_what_makes_them_less_comparable_is_said() -> None:
    other = record(
        set=2,
        quick=True,
        other_cores=1.5,
        versions={"fogconv": "0.3.0", "numpy": "2"},
        machines=(msgspec.structs.replace(MACHINE, kernels="k2"),),
    )
    said = " | ".join(compare(record(), other, NAMES).cautions)
    for text in (
        "sets (1 and 2)",
        "B was made with --quick",
        "1.5 cores busy where B",
        "fogconv 0.2.0 and 0.3.0",
        "kernels",
    ):
        assert text in said
    assert "numpy none and 2" in said
    assert compare(record(), record(), NAMES).cautions == ()
