"""SchemeOptions: a scheme's options. Each has one default and one check, here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

from fogconv.errors import InputError
from fogconv.guards.protection import check_wire
from fogconv.ir.guard import Protection
from fogconv.ir.program import Wire
from fogconv.speedup.model import Split
from fogconv.speedup.trigger import DEFAULT_THRESHOLD, DEFAULT_TRIGGER, Trigger, check_threshold, parse_split
from fogconv.values import table

LOSSLESS: Literal["lossless"] = "lossless"

WIRES: tuple[str, ...] = (*get_args(Wire), LOSSLESS)
"""The ways to code activations, and "lossless" for the fastest of the lossless ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemeOptions:
    """``trigger``, ``threshold``, ``master_computes``, ``even``, ``parts``, ``split`` and ``protection`` are the star's,
    ``wire`` and ``allow_swap`` are for every scheme. Raises InputError for impossible values.
    """

    trigger: str = DEFAULT_TRIGGER
    """Which convs are distributed: see `fogconv.speedup.trigger`."""
    threshold: float = DEFAULT_THRESHOLD
    """S and the estimate must exceed this: 0 distributes every conv, inf none."""
    master_computes: bool = True
    """The master computes a share, too."""
    even: bool = False
    """Equal shares instead of shares by measured rate."""
    parts: int | None = None
    """Into how many parts a conv is cut that is distributed; None: the cheapest number."""
    split: str | None = None
    """How: input:N, output:N or grid:PxQ; None: the cheapest way."""
    wire: str = "fp32"
    """How activations are coded: one of WIRES."""
    allow_swap: bool = False
    """Weights beyond a rank's memory limit lie on its disk, and are read for each inference."""
    protection: Protection = Protection()
    """Check the workers' results, add a parity worker, or replace late results (`fogconv.ir.guard`)."""

    def __post_init__(self) -> None:
        Trigger.parse(self.trigger)
        check_threshold(self.threshold)
        if self.parts is not None:
            table.PARTS.check("parts", self.parts)
        if self.split is not None:
            parse_split(self.split)
            if self.parts is not None:
                raise InputError("--parts and --split both say into how many parts; leave one out")
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
        """The wire format; "lossless" must first be replaced by `fogconv.planning.planner.settled`."""
        if self.wire == LOSSLESS:
            raise InputError("the wire is 'lossless', and the lossless format has not been chosen yet")
        return cast("Wire", str(self.wire))
