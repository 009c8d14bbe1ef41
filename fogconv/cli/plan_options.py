"""The options that choose a plan, as PlanOptions; every command that plans takes them from here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fogconv.cli.choices import Switch, choice
from fogconv.cli.panels import HOW, STAR
from fogconv.ir.guard import Protection
from fogconv.ir.plan import load_plan
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.scheme_options import WIRES
from fogconv.planning.schemes import Scheme

if TYPE_CHECKING:
    WireName = str
else:
    WireName = choice("WireName", WIRES)

SchemeOption = Annotated[
    Scheme | None,
    typer.Option(
        "--scheme",
        help="; ".join(f"{scheme}: {scheme.help}" for scheme in Scheme)
        + ". auto by default, star where an option of the star's is given.",
        rich_help_panel=HOW,
    ),
]
TriggerOption = Annotated[
    str | None,
    typer.Option("--trigger", help="both, bound, estimate or channels:N; both by default.", rich_help_panel=STAR),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        help="What S and the estimate have to beat; 0 distributes every conv, inf none; 1 by default.",
        rich_help_panel=STAR,
    ),
]
MasterComputesOption = Annotated[
    Switch,
    typer.Option(
        "--master-computes",
        help="on, or off as in the paper, where the master only cuts and joins.",
        rich_help_panel=STAR,
    ),
]
EvenOption = Annotated[
    bool,
    typer.Option("--even", help="Equal shares instead of shares by measured rate.", rich_help_panel=STAR),
]
WireOption = Annotated[
    WireName,
    typer.Option("--wire", help="How activations travel; lossless: the best that loses nothing.", rich_help_panel=HOW),
]
PlanOption = Annotated[
    Path | None,
    typer.Option("--plan", help="Take this plan (of `fogconv plan --out`).", rich_help_panel=HOW),
]
MASTER_COMPUTES = Switch.ON if PlanOptions().master_computes else Switch.OFF
WIRE: WireName = WireName(PlanOptions().wire)


def plan_options(
    scheme: Scheme | None = None,
    trigger: str | None = None,
    threshold: float | None = None,
    master_computes: Switch = MASTER_COMPUTES,
    wire: str = WIRE,
    *,
    even: bool = False,
    protection: Protection = Protection(),
    plan: Path | None = None,
) -> PlanOptions:
    """Without a scheme it is the star where its trigger, its threshold or guards are asked for. Raises InputError."""
    star: dict[str, Any] = {"trigger": trigger, "threshold": threshold}
    given = {name: value for name, value in star.items() if value is not None}
    return PlanOptions(
        str(scheme or (Scheme.STAR if given or protection else Scheme.AUTO)),
        None if plan is None else load_plan(plan),
        master_computes=bool(master_computes),
        even=even,
        wire=str(wire),
        protection=protection,
        **given,
    )
