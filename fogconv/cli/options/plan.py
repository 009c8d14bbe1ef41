"""The options of a plan, as PlanOptions, shared by all commands that plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fogconv.cli.options.choices import Switch, choice
from fogconv.cli.options.panels import HOW, STAR
from fogconv.cli.options.values import DEADLINE, FILE, PIN, SPLIT, TILES, TRIGGER, number
from fogconv.hardware.units import deadline_s
from fogconv.ir.guard import Protection
from fogconv.ir.plan import load_plan
from fogconv.planning.limits.cuts import CUTS
from fogconv.planning.limits.goal import OBJECTIVES
from fogconv.planning.plan_options import PlanOptions
from fogconv.planning.scheme_options import WIRES
from fogconv.planning.schemes import Scheme
from fogconv.values import table

if TYPE_CHECKING:
    CutsName = str
    ObjectiveName = str
    WireName = str
else:
    CutsName = choice("CutsName", CUTS)
    ObjectiveName = choice("ObjectiveName", OBJECTIVES)
    WireName = choice("WireName", WIRES)

SchemeOption = Annotated[
    Scheme | None,
    typer.Option(
        "--scheme",
        help="How the work is split: "
        + "; ".join(f"{scheme}: {scheme.help}" for scheme in Scheme)
        + ". By default auto; star where one of the star's options is given, tiles with --tiles.",
        rich_help_panel=HOW,
    ),
]
TriggerOption = Annotated[
    str | None,
    typer.Option(
        "--trigger",
        parser=TRIGGER,
        help="What distributes a conv: both (the default), bound, estimate or channels:N.",
        rich_help_panel=STAR,
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        parser=number("ratio", table.THRESHOLD),
        help="Speedup, as a factor, that a conv must exceed; by default 1. 0 distributes all, inf none.",
        rich_help_panel=STAR,
    ),
]
MasterComputesOption = Annotated[
    Switch,
    typer.Option(
        "--master-computes",
        help="Let the master compute a share: on, or off as in the paper, where it only cuts and joins.",
        rich_help_panel=STAR,
    ),
]
EvenOption = Annotated[
    bool,
    typer.Option("--even", help="Give equal shares instead of shares by measured rate.", rich_help_panel=STAR),
]
PartsOption = Annotated[
    int | None,
    typer.Option(
        "--parts",
        parser=number("count", table.PARTS),
        help="Number of parts that every conv is cut into; it distributes all of them, unless --trigger or --threshold "
        "says which.",
        rich_help_panel=STAR,
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split",
        parser=SPLIT,
        help="How every conv is cut, by input or output channels or both: input:N, output:N or grid:PxQ. It distributes "
        "as --parts does.",
        rich_help_panel=STAR,
    ),
]
WireOption = Annotated[
    WireName,
    typer.Option(
        "--wire",
        help="How activations are coded on links; lossless chooses the fastest lossless coding.",
        rich_help_panel=HOW,
    ),
]
AllowSwapOption = Annotated[
    bool,
    typer.Option(
        "--allow-swap",
        help="Keep weights beyond a memory limit on the rank's disk, and read them for each inference.",
        rich_help_panel=HOW,
    ),
]
CutsOption = Annotated[
    CutsName,
    typer.Option(
        "--cuts",
        help="Where --scheme offload may change ranks: after all layers, or only after those whose output is smaller than "
        "all before (shrinking).",
        rich_help_panel=HOW,
    ),
]
TilesOption = Annotated[
    str | None,
    typer.Option(
        "--tiles",
        parser=TILES,
        help="Into how many bands of rows, and columns, --scheme tiles cuts maps, such as 2x3; by default the best of those "
        "nearest to squares.",
        rich_help_panel=HOW,
    ),
]
PinsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--pin",
        parser=PIN,
        help="Compute layers whole on one rank: LAYER=RANK or FIRST-LAST=RANK, such as features.0-4=0 for the master; may "
        "be repeated.",
        rich_help_panel=HOW,
    ),
]
KeepInputHomeOption = Annotated[
    bool,
    typer.Option(
        "--keep-input-home",
        help="Let no tensor before the first pooling leave the master.",
        rich_help_panel=HOW,
    ),
]
ObjectiveOption = Annotated[
    ObjectiveName | None,
    typer.Option(
        "--objective",
        help="What the plan is for: latency (the default); throughput, frames per second of a stream; or energy, of all "
        "devices together, those that wait too.",
        rich_help_panel=HOW,
    ),
]
DeadlineOption = Annotated[
    str | None,
    typer.Option(
        "--deadline",
        parser=DEADLINE,
        help="Save energy, but take no longer than this, such as 300ms.",
        rich_help_panel=HOW,
    ),
]
PlanOption = Annotated[
    Path | None,
    typer.Option(
        "--plan", parser=FILE, help="Use the plan in this file, which `fogconv plan --out` wrote.", rich_help_panel=HOW
    ),
]
MASTER_COMPUTES = Switch.ON if PlanOptions().master_computes else Switch.OFF
WIRE: WireName = WireName(PlanOptions().wire)
CUTS_AT: CutsName = CutsName(PlanOptions().cuts)


def plan_options(
    scheme: Scheme | None = None,
    trigger: str | None = None,
    threshold: float | None = None,
    master_computes: Switch = MASTER_COMPUTES,
    wire: str = WIRE,
    *,
    even: bool = False,
    parts: int | None = None,
    split: str | None = None,
    protection: Protection = Protection(),
    plan: Path | None = None,
    allow_swap: bool = False,
    cuts: str = CUTS_AT,
    tiles: str | None = None,
    pins: Sequence[str] | None = None,
    keep_input_home: bool = False,
    objective: str | None = None,
    deadline: str | None = None,
) -> PlanOptions:
    """The plan options. Without a scheme, a trigger, threshold, cut or guard selects the star, and tiles the scheme of that
    name.

    With parts or a split, but neither trigger nor threshold, every conv is distributed. Raises InputError.
    """
    if (parts is not None or split is not None) and trigger is None and threshold is None:
        threshold = 0.0
    star: dict[str, Any] = {"trigger": trigger, "threshold": threshold, "parts": parts, "split": split}
    given = {name: value for name, value in star.items() if value is not None}
    usual = Scheme.AUTO if tiles is None else Scheme.TILES
    return PlanOptions(
        str(scheme or (Scheme.STAR if given or protection else usual)),
        None if plan is None else load_plan(plan),
        master_computes=bool(master_computes),
        even=even,
        wire=str(wire),
        protection=protection,
        allow_swap=allow_swap,
        cuts=str(cuts),
        tiles=tiles,
        pins=tuple(pins or ()),
        keep_input_home=keep_input_home,
        objective=None if objective is None else str(objective),
        deadline_s=None if deadline is None else deadline_s(deadline),
        **given,
    )
