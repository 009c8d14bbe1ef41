"""Sought: what a search looks for, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fogconv.ir.layout import MASTER
from fogconv.ir.steps import Pixels, Wire
from fogconv.planning.limits.allowed import Allowed
from fogconv.planning.limits.goal import Goal
from fogconv.planning.limits.tiling import Tiling


@dataclass(frozen=True, slots=True)
class Unsent:
    """Weights that workers do not have yet: those of a layer that is not among the ``landed`` cost ``weight_s`` each. So a
    path has workers compute only what gains more per weight."""

    weight_s: float
    landed: frozenset[int]

    def price_s(self, layer: int, stored: Sequence[int]) -> float:
        """Of a layer of which the ranks store so many weights."""
        return 0.0 if layer in self.landed else self.weight_s * sum(stored[MASTER + 1 :])


@dataclass(frozen=True, slots=True)
class Sought:
    """What is looked for. ``allow_swap``: weights beyond a rank's memory limit lie on its disk. ``pixels``: the
    picture is sent as bytes. ``tiling``: the only one; None for any. ``unsent``: what weights cost that have to be sent
    first."""

    wire: Wire = "fp32"
    allow_swap: bool = False
    allowed: Allowed = Allowed()
    goal: Goal = Goal()
    pixels: Pixels | None = None
    unsent: Unsent | None = None
    tiling: Tiling | None = None
