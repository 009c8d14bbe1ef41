"""Timeline: a plan as a picture, with one row per rank, time to the right, and a colour for each kind of split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fogconv.errors import DependencyError, InputError, with_extra
from fogconv.hardware.tiers import shown_in
from fogconv.hardware.topology import Topology
from fogconv.ir.graph import LayerGraph
from fogconv.ir.plan import Plan
from fogconv.planning.cost import Prices
from fogconv.planning.limits.allowed import Allowed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg", ".pdf")

COLOURS = {
    "local": ("#9a9a9a", "on the master"),
    "host": ("#5c5c5c", "in torch or ONNX Runtime on the master"),
    "star": ("#0b6fa4", "star: out and back"),
    "output": ("#0b6fa4", "output channels"),
    "input": ("#d1570b", "input channels, summed"),
    "groups": ("#7b3fa0", "groups"),
    "channels": ("#57a6d6", "channel by channel"),
    "rows": ("#2e7d32", "rows with halo"),
    "columns": ("#00838f", "columns with halo"),
    "tiles": ("#5d7d1a", "tiles with halo"),
    "grid": ("#1b998b", "rows, and channels among the ranks of a group"),
    "sums": ("#8fbf6a", "rows or columns, summed"),
    "offload": ("#b0413e", "whole, on another rank"),
    "copies": ("#c9a400", "copied: every rank computes it all"),
}
TRAVEL = "#ead9cd"
HATCH = "///"
"""Of layers that were pinned."""


def draw(path: Path, graph: LayerGraph, plan: Plan, topology: Topology, allowed: Allowed = Allowed()) -> None:
    """Draw a plan into a file; ``allowed`` is what it was made within: pinned layers are hatched. Raises InputError for
    another suffix or a file that can't be written, DependencyError without matplotlib."""
    check_suffix(path)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DependencyError(f"a picture of the plan needs matplotlib: {with_extra('model')}") from error
    figure = Figure(figsize=(12, 1.7 + 0.5 * plan.ranks), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    used = _bars(axes, graph, plan, topology, allowed)
    axes.set_yticks(range(plan.ranks), _row_names(topology, plan.ranks))
    axes.invert_yaxis()
    axes.set_xlabel("predicted time, ms")
    axes.set_xlim(left=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    seconds = f", {plan.predicted_s * 1e3:.1f} ms" if plan.predicted_s is not None else ""
    axes.set_title(f"{plan.graph} on {plan.ranks} ranks, scheme {plan.scheme}, {plan.wire} on the wire{seconds}", loc="left")
    figure.legend(
        handles=[_patch(colour, label, HATCH if key == "pinned" else "") for key, (colour, label) in used.items()],
        loc="outside lower center",
        ncols=5,
        frameon=False,
        fontsize=9,
    )
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror or error}") from error


def check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: the name ends in one of {', '.join(SUFFIXES)}")


def _bars(axes: Axes, graph: LayerGraph, plan: Plan, topology: Topology, allowed: Allowed) -> dict[str, tuple[str, str]]:
    """Draw the bars. Returns the colours that were used, for the legend."""
    prices = Prices(topology, graph.picture.batch, plan.wire)
    used: dict[str, tuple[str, str]] = {}
    now = 0.0
    for layer, placement in zip(graph.layers, plan.placements, strict=True):
        terms = placement.predicted
        edge_s = terms.get("edge_s", 0.0)
        before_s = terms.get("part_s", 0.0) + terms.get("tx_s", 0.0)
        after_s = terms.get("rx_s", 0.0) + terms.get("join_s", 0.0)
        ranks = sorted({work.rank for work in placement.work})
        for rank in ranks if len(ranks) > 1 or before_s else ():
            for begin, length in ((now, before_s), (now + before_s + edge_s, after_s)):
                if length > 0:
                    used["travel"] = (TRAVEL, "travelling, summing")
                    axes.barh(rank, length * 1e3, left=begin * 1e3, height=0.62, color=TRAVEL)
        for rank in ranks:
            own_s = sum(prices.work_s(layer, work, graph.tensors) for work in placement.work if work.rank == rank)
            colour = used[placement.mode] = COLOURS.get(placement.mode, COLOURS["local"])
            length = min(own_s, edge_s) if edge_s else own_s
            pinned = allowed.rank_of(layer) is not None
            if pinned:
                used["pinned"] = ("white", "pinned")
            axes.barh(
                rank,
                length * 1e3,
                left=(now + before_s) * 1e3,
                height=0.62,
                color=colour[0],
                edgecolor="white",
                lw=0.25,
                hatch=HATCH if pinned else None,
            )
        now += terms.get("total_s", before_s + edge_s + after_s)
    return used


def _patch(colour: str, label: str, hatch: str) -> object:
    from matplotlib.patches import Patch

    return Patch(facecolor=colour, edgecolor="#555555" if hatch else colour, hatch=hatch, label=label)


def _row_names(topology: Topology, ranks: int) -> list[str]:
    """What tells the ranks apart: their devices' names, or their part where all devices have one name."""
    names = [topology.devices[rank].name for rank in range(ranks)]
    if len(set(names)) == 1:
        names = ["master", *["worker"] * (ranks - 1)]
    return [f"{rank}: {shown_in(name, topology.devices[rank].tier)}" for rank, name in enumerate(names)]
