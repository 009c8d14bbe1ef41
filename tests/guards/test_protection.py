"""What a Protection may guard is said in one place."""

from __future__ import annotations

import pytest

from fogconv.errors import InputError
from fogconv.guards.protection import check_protection, coder_of
from fogconv.ir.guard import Protection

ALL = Protection(verify=True, redundancy=1, patience=2.0)


@pytest.mark.parametrize("scheme", ["auto", "star"])
def test_the_star_may_be_guarded(scheme: str) -> None:
    check_protection(ALL, scheme)


@pytest.mark.parametrize("scheme", ["rows", "depth", "local"])
@pytest.mark.parametrize("protection", [Protection(verify=True), Protection(redundancy=1), Protection(patience=2.0)])
def test_other_schemes_may_not(scheme: str, protection: Protection) -> None:
    with pytest.raises(InputError, match=f"not --scheme {scheme}"):
        check_protection(protection, scheme)


def test_nor_may_a_plan_that_is_given() -> None:
    with pytest.raises(InputError, match="not a plan that is given"):
        check_protection(ALL, "star", plan_given=True)


def test_only_verify_minds_a_wire_that_rounds() -> None:
    with pytest.raises(InputError, match="--wire bf16"):
        check_protection(ALL, "star", wire="bf16")
    check_protection(Protection(redundancy=1, patience=2.0), "star", wire="bf16")


def test_nothing_asked_for_is_refused_nowhere() -> None:
    check_protection(Protection(), "rows", wire="fp16", plan_given=True)


@pytest.mark.parametrize(("ranks", "coder"), [(1, None), (3, None), (4, 3), (9, 8)])
def test_the_last_of_enough_workers_computes_the_code(ranks: int, coder: int | None) -> None:
    assert coder_of(ALL, ranks) == coder
    assert coder_of(Protection(verify=True), ranks) is None
