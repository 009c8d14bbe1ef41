"""Checks of a Protection."""

from __future__ import annotations

from fogconv.errors import InputError
from fogconv.ir.guard import Protection
from fogconv.ir.steps import Wire

ROUNDING_WIRES: tuple[Wire, ...] = ("fp16", "bf16")

FEWEST_CODED = 2
"""The least number of workers whose pieces a code sums: with a single one it would be a copy."""


def check_scheme(protection: Protection, scheme: str, *, guarded: bool, plan_given: bool = False) -> None:
    """Raises InputError for a scheme that is not ``guarded``, and for a given plan."""
    if protection and (plan_given or not guarded):
        what = "a given plan" if plan_given else f"--scheme {scheme}"
        raise InputError(f"--verify, --redundancy and --patience guard the star's convs, not {what}")


def check_wire(protection: Protection, wire: str) -> None:
    """Raises InputError for checks where the wire rounds the values."""
    if protection.verify and wire in ROUNDING_WIRES:
        raise InputError(f"--verify can't tell a wrong result from one rounded by --wire {wire}; use fp32 or lossless")


def without_code(protection: Protection, ranks: int) -> str | None:
    """A sentence where redundancy is asked for, and there are too few workers for it to do anything."""
    if not protection.redundancy or coder_of(protection, ranks) is not None:
        return None
    workers = f"{ranks - 1} worker{'s' if ranks != 2 else ''}"
    return (
        f"redundancy {protection.redundancy} codes no results over {workers}: it takes {FEWEST_CODED + 1} or more; "
        "a lost result is computed again"
    )


def coder_of(protection: Protection, ranks: int) -> int | None:
    """The rank that computes the sum of the others' pieces instead of a piece: the last one, where enough others
    remain."""
    return ranks - 1 if protection.redundancy and ranks - 2 >= FEWEST_CODED else None
