"""PlanOptions: all options of a plan. The command line, the engine and the torch modules build it."""

from __future__ import annotations

from dataclasses import dataclass

from fogconv.errors import InputError
from fogconv.guards.protection import check_scheme
from fogconv.ir.plan import Plan
from fogconv.planning.limits.goal import Goal
from fogconv.planning.scheme_options import SchemeOptions
from fogconv.planning.schemes import STREAMS, Scheme


@dataclass(frozen=True, slots=True)
class PlanOptions(SchemeOptions):
    """A scheme and its options. A given ``plan`` is used as long as all its ranks live.

    Raises InputError for impossible options; the message names the possible ones.
    """

    scheme: str = Scheme.AUTO
    plan: Plan | None = None

    def __post_init__(self) -> None:
        # Not super(): dataclass(slots=True) creates the class twice, and super() refers to the first one.
        SchemeOptions.__post_init__(self)
        scheme = Scheme.named(self.scheme)
        if (self.parts is not None or self.split is not None) and scheme is not Scheme.STAR:
            raise InputError(f"--parts and --split cut the star's convs; --scheme {scheme} has its own ways to cut")
        if self.cuts != "all" and scheme is not Scheme.OFFLOAD:
            raise InputError(f"--cuts {self.cuts} is for whole layers: --scheme offload, not --scheme {scheme}")
        if self.objective == "throughput" and scheme not in (Scheme.AUTO, *STREAMS):
            raise InputError(
                f"--objective throughput is for streams: for --scheme auto, pipeline or replicas, not --scheme {scheme}"
            )
        if self.tiles is not None and scheme is not Scheme.TILES:
            raise InputError(f"--tiles {self.tiles} cuts maps into tiles: --scheme tiles, not --scheme {scheme}")
        starred = scheme is Scheme.STAR or (self.protection and scheme is Scheme.AUTO)
        if starred and self.goal != Goal():
            raise InputError("the star's trigger decides by seconds; --objective and --deadline are for the other schemes")
        check_scheme(self.protection, self.scheme, guarded=scheme.guarded, plan_given=self.plan is not None)
