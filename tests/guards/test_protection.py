"""What a Protection may guard is said in one place."""

from __future__ import annotations

import pytest

from fogconv.errors import InputError
from fogconv.guards.protection import check_scheme, check_wire, coder_of
from fogconv.ir.guard import Protection
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.schemes import Scheme

ALL = Protection(verify=True, redundancy=1, patience=2.0)


@pytest.mark.parametrize("scheme", list(Scheme))
def test_check_scheme_follows_the_table_of_schemes(scheme: Scheme) -> None:
    if scheme.guarded:
        check_scheme(ALL, scheme, guarded=scheme.guarded)
        PlanOptions(scheme=scheme, protection=ALL)
    else:
        with pytest.raises(InputError, match=f"not --scheme {scheme}"):
            PlanOptions(scheme=scheme, protection=ALL)
    PlanOptions(scheme=scheme)


def test_check_scheme_refuses_a_plan_that_is_given() -> None:
    with pytest.raises(InputError, match="not a given plan"):
        check_scheme(ALL, "star", guarded=True, plan_given=True)
    check_scheme(Protection(), "rows", guarded=False, plan_given=True)


def test_check_wire_refuses_to_verify_what_is_rounded() -> None:
    with pytest.raises(InputError, match="rounded by --wire bf16"):
        PlanOptions(scheme="star", wire="bf16", protection=ALL)
    check_wire(Protection(redundancy=1, patience=2.0), "bf16")
    check_wire(Protection(), "fp16")


@pytest.mark.parametrize(("ranks", "coder"), [(1, None), (3, None), (4, 3), (9, 8)])
def test_the_last_of_enough_workers_computes_the_code(ranks: int, coder: int | None) -> None:
    assert coder_of(ALL, ranks) == coder
    assert coder_of(Protection(verify=True), ranks) is None
