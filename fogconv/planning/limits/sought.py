"""Sought: what a search looks for, as data."""

from __future__ import annotations

from dataclasses import dataclass

from fogconv.ir.program import Pixels, Wire
from fogconv.planning.limits.allowed import Allowed
from fogconv.planning.limits.goal import Goal
from fogconv.planning.limits.tiling import Tiling


@dataclass(frozen=True, slots=True)
class Sought:
    """What is looked for. ``allow_swap``: weights beyond a rank's memory limit lie on its disk. ``pixels``: the
    picture is sent as bytes. ``tiling``: the only one; None for any."""

    wire: Wire = "fp32"
    allow_swap: bool = False
    allowed: Allowed = Allowed()
    goal: Goal = Goal()
    pixels: Pixels | None = None
    tiling: Tiling | None = None
