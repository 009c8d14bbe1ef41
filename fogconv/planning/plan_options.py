"""PlanOptions: everything that may be chosen of a plan. The command line, the engine and the torch modules build it."""

from __future__ import annotations

from dataclasses import dataclass

from fogconv.errors import InputError
from fogconv.ir.plan import Plan
from fogconv.planning.scheme_options import SchemeOptions
from fogconv.planning.schemes import Scheme


@dataclass(frozen=True, slots=True)
class PlanOptions(SchemeOptions):
    """A scheme, and what it is told. A ``plan`` that is given is taken while all its ranks live.

    Raises InputError for what is not possible; it names what is.
    """

    scheme: str = Scheme.AUTO
    plan: Plan | None = None

    def __post_init__(self) -> None:
        SchemeOptions.__post_init__(self)  # a class with slots is made twice, and super() knows the first only
        scheme = Scheme.named(self.scheme)
        if self.protection and (self.plan is not None or not scheme.guarded):
            what = f"--scheme {self.scheme}" if self.plan is None else "a plan that is given"
            raise InputError(f"--verify, --redundancy and --patience guard the star's convs, not {what}")
