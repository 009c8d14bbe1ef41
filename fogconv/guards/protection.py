"""What may be asked for by a Protection."""

from __future__ import annotations

from fogconv.errors import InputError
from fogconv.ir.guard import Protection
from fogconv.ir.program import Wire

ROUNDING_WIRES: tuple[Wire, ...] = ("fp16", "bf16")

FEWEST_CODED = 2
"""Workers whose pieces a code sums: that of a single one would be a copy."""


def check_scheme(protection: Protection, scheme: str, *, guarded: bool, plan_given: bool = False) -> None:
    """Raises InputError where what is to run can't be guarded: a scheme that is not ``guarded``, or a plan that is given."""
    if protection and (plan_given or not guarded):
        what = "a plan that is given" if plan_given else f"--scheme {scheme}"
        raise InputError(f"--verify, --redundancy and --patience guard the star's convs, not {what}")


def check_wire(protection: Protection, wire: str) -> None:
    """Raises InputError for checks of values that the wire rounds."""
    if protection.verify and wire in ROUNDING_WIRES:
        raise InputError(f"--verify can't tell a wrong result from one that --wire {wire} rounded: use fp32 or lossless")


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
    """The rank that computes the sum of the others' pieces instead of a piece: the last, where enough others are left."""
    return ranks - 1 if protection.redundancy and ranks - 2 >= FEWEST_CODED else None
