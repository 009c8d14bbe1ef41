"""SchemeOptions: a scheme's options. Each has one default and one check, here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self, cast

from fogconv.errors import InputError
from fogconv.guards.protection import check_wire
from fogconv.ir.graph import LayerGraph
from fogconv.ir.guard import Protection
from fogconv.ir.steps import WIRES_OF_FP32, Pixels, Wire
from fogconv.planning.limits.allowed import Allowed
from fogconv.planning.limits.cuts import CUTS, not_cut
from fogconv.planning.limits.goal import OBJECTIVES, Goal
from fogconv.planning.limits.pins import Pin, among, before_pooling, check_together, pinned
from fogconv.planning.limits.tiling import Tiling
from fogconv.speedup.model import Split
from fogconv.speedup.trigger import DEFAULT_THRESHOLD, DEFAULT_TRIGGER, Trigger, check_threshold, parse_split
from fogconv.values import table

LOSSLESS: Literal["lossless"] = "lossless"

WIRES: tuple[str, ...] = (*WIRES_OF_FP32, LOSSLESS)
"""The ways to code activations, and "lossless" for the fastest of the lossless ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemeOptions:
    """``trigger``, ``threshold``, ``master_computes``, ``even``, ``parts``, ``split`` and ``protection`` are the star's,
    ``cuts`` is for offload, ``tiles`` for tiles, the others are for every scheme. Raises InputError for impossible values.
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
    cuts: str = "all"
    """Where offloaded work may change ranks: one of `fogconv.planning.limits.cuts.CUTS`."""
    tiles: str | None = None
    """Into how many bands of rows, and columns, maps are cut: "2x3" (`fogconv.planning.limits.tiling`); None: the best of
    those whose tiles are nearest to squares."""
    pins: tuple[str, ...] = ()
    """Layers that one rank computes whole: "features.0-4=0" (`fogconv.planning.limits.pins`)."""
    keep_input_home: bool = False
    """No tensor before the first pooling leaves the master."""
    objective: str | None = None
    """What the plan is for: latency, throughput (of a stream) or energy; None: latency, or with a deadline energy."""
    deadline_s: float | None = None
    """Of the plans that take no longer than so many seconds, the one of least energy."""
    pixels: Pixels | None = None
    """How the 8-bit picture that runs was normalised: where that gains, it is sent as bytes."""
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
        if self.cuts not in CUTS:
            raise InputError(f"cuts {self.cuts!r} is not known; it is one of {', '.join(CUTS)}")
        if self.tiles is not None:
            Tiling.parse(self.tiles)
        for pin in self.pins:
            Pin.parse(pin)
        if self.objective is not None and self.objective not in OBJECTIVES:
            raise InputError(f"objective {self.objective!r} is not known; it is one of {', '.join(OBJECTIVES)}")
        if self.deadline_s is not None:
            table.DEADLINE.check("deadline_s", self.deadline_s)
            if self.objective not in (None, "energy"):
                raise InputError(
                    f"--deadline looks for the least energy that keeps it, and --objective {self.objective} for something "
                    "else; leave one out"
                )
        check_wire(self.protection, self.wire)

    @property
    def cut(self) -> Split | None:
        """``split`` as the model has it."""
        return None if self.split is None else parse_split(self.split)

    def check_ranks(self, ranks: int) -> None:
        """Raises InputError for more parts than there are ranks to compute them. Not checked when a plan is made: after
        a loss there may be fewer."""
        for pin in map(Pin.parse, self.pins):
            if pin.rank >= ranks:
                raise InputError(f"--pin {pin}: there are ranks 0 to {ranks - 1}")
        if self.tiling is not None and self.tiling.tiles > ranks:
            raise InputError(f"--tiles {self.tiling} asks for {self.tiling.tiles} ranks, and there are {ranks}")
        wanted = self.parts if self.split is None else parse_split(self.split).parts
        there = ranks - (not self.master_computes) - self.protection.redundancy
        if wanted is not None and wanted > there:
            option = f"--parts {self.parts}" if self.split is None else f"--split {self.split}"
            raise InputError(f"{option} asks for {wanted} ranks that compute, and there are {there}")

    @property
    def goal(self) -> Goal:
        return Goal(self.objective or ("latency" if self.deadline_s is None else "energy"), self.deadline_s)

    @property
    def tiling(self) -> Tiling | None:
        return None if self.tiles is None else Tiling.parse(self.tiles)

    @property
    def limited(self) -> bool:
        """Whether any work or transfer is not allowed."""
        return bool(self.pins) or self.keep_input_home or self.cuts != "all"

    def allowed(self, graph: LayerGraph, ranks: int) -> Allowed:
        """The work and the transfers that a plan for this cluster may have. Raises InputError for pins that contradict
        each other, or that name no layer or rank."""
        if not self.limited:
            return Allowed()
        at = pinned(graph, map(Pin.parse, self.pins), ranks)
        home = before_pooling(graph) if self.keep_input_home else frozenset[int]()
        check_together(graph, at, home)
        given = {"--pin": self.pins, "--keep-input-home": self.keep_input_home, "--cuts shrinking": self.cuts != "all"}
        uncut = frozenset[int]() if self.cuts == "all" else not_cut(graph)
        return Allowed(at, home | uncut, " with ".join(name for name, value in given.items() if value))

    def among(self, ranks: Sequence[int]) -> Self:
        """The options for a cluster of these ranks of this one: pinned ranks have other numbers, and what a rank that is
        missing was to compute is the master's."""
        if not self.pins:
            return self
        return replace(self, pins=tuple(str(pin) for pin in among([Pin.parse(pin) for pin in self.pins], ranks)))

    @property
    def coding(self) -> Wire:
        """The wire format; "lossless" must first be replaced by `fogconv.planning.planner.settled`."""
        if self.wire == LOSSLESS:
            raise InputError("the wire is 'lossless', and the lossless format has not been chosen yet")
        return cast("Wire", str(self.wire))
