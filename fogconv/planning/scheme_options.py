"""SchemeOptions: what a scheme is told beside the model and the cluster. Each has one default and one check, here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

from fogconv.errors import InputError
from fogconv.guards.protection import check_wire
from fogconv.ir.guard import Protection
from fogconv.ir.program import Wire
from fogconv.speedup.model import Split
from fogconv.speedup.trigger import DEFAULT_THRESHOLD, DEFAULT_TRIGGER, Trigger, check_threshold, parse_split

LOSSLESS: Literal["lossless"] = "lossless"

FEWEST_PARTS = 2

WIRES: tuple[str, ...] = (*get_args(Wire), LOSSLESS)
"""The ways to code activations, and "lossless" for the best of those that lose nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemeOptions:
    """``trigger``, ``threshold``, ``master_computes``, ``even``, ``parts``, ``split`` and ``protection`` are the star's,
    ``wire`` is for every scheme. Raises InputError for what is not possible."""

    trigger: str = DEFAULT_TRIGGER
    """Which convs are distributed: see `fogconv.speedup.trigger`."""
    threshold: float = DEFAULT_THRESHOLD
    """What S and the estimate have to beat: 0 distributes every conv, inf none."""
    master_computes: bool = True
    """The master computes a share, too."""
    even: bool = False
    """Equal shares instead of shares by measured rate."""
    parts: int | None = None
    """Into how many parts a conv is cut that is distributed; None: the cheapest number."""
    split: str | None = None
    """How: input:N, output:N or grid:PxQ; None: the cheapest way."""
    wire: str = "fp32"
    """How activations travel: one of WIRES."""
    protection: Protection = Protection()
    """Check, code, or do not wait for what workers compute (`fogconv.ir.guard`)."""

    def __post_init__(self) -> None:
        Trigger.parse(self.trigger)
        check_threshold(self.threshold)
        if self.parts is not None and self.parts < FEWEST_PARTS:
            raise InputError(f"--parts {self.parts}: it must be at least {FEWEST_PARTS}")
        if self.split is not None:
            if self.parts is not None:
                raise InputError("--parts and --split both say into how many parts; leave one out")
            if parse_split(self.split).parts < FEWEST_PARTS:
                raise InputError(f"--split {self.split}: it must make at least {FEWEST_PARTS} parts")
        if self.wire not in WIRES:
            raise InputError(f"wire {self.wire!r} is not known; it is one of {', '.join(WIRES)}")
        check_wire(self.protection, self.wire)

    @property
    def cut(self) -> Split | None:
        """``split`` as the model has it."""
        return None if self.split is None else parse_split(self.split)

    def check_ranks(self, ranks: int) -> None:
        """Raises InputError for more parts than there are ranks to compute them. Not checked when a plan is made: after
        a loss there may be fewer."""
        wanted = self.parts if self.split is None else parse_split(self.split).parts
        there = ranks - (not self.master_computes) - self.protection.redundancy
        if wanted is not None and wanted > there:
            option = f"--parts {self.parts}" if self.split is None else f"--split {self.split}"
            raise InputError(f"{option} asks for {wanted} ranks that compute, and there are {there}")

    @property
    def coding(self) -> Wire:
        """The wire, where it says how; "lossless" says so only when `fogconv.planning.planner.settled` has chosen."""
        if self.wire == LOSSLESS:
            raise InputError("the wire is lossless, and it has not been chosen yet which of those that are")
        return cast("Wire", str(self.wire))
