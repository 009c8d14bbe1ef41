"""PlanOptions: everything that may be chosen of a plan. The command line, the engine and the torch modules build it."""

from __future__ import annotations

from dataclasses import dataclass

from fogconv.errors import InputError
from fogconv.guards.protection import check_scheme
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
        if (self.parts is not None or self.split is not None) and scheme is not Scheme.STAR:
            raise InputError(f"--parts and --split cut the star's convs; --scheme {scheme} has its own ways to cut")
        check_scheme(self.protection, self.scheme, guarded=scheme.guarded, plan_given=self.plan is not None)
