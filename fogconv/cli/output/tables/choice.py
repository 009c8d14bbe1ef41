"""The output of `fogconv choose`: the models that meet all limits, then the others with what they miss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from fogconv.choice.candidate import Candidate, Limits
from fogconv.choice.ranking import Ranking
from fogconv.cli.output.ellipsis import Name
from fogconv.cli.output.paragraph import Paragraph
from fogconv.cli.output.tables.table import figures_table
from fogconv.hardware.energy import without_energy
from fogconv.hardware.topology import Topology
from fogconv.hardware.units import show_seconds
from fogconv.zoo.accuracy import source

MOST_OTHERS = 10
UNKNOWN = "–"


def print_choice(
    ranking: Ranking, limits: Limits, topology: Topology, described: str, console: Console | None = None
) -> None:
    """``described``: a sentence about the devices and links."""
    out = console or Console(highlight=False)
    out.print(Paragraph(f"{len(topology)} rank{'s' * (len(topology) > 1)}. {described}", style="dim"))
    legend = (
        "top-1: published accuracy on ImageNet. time: predicted, per inference; alone: on the master alone. memory: of "
        "fogconv on the device that needs most."
    )
    if not without_energy(topology):
        legend += " energy: of all ranks that take part, while they wait too."
    out.print(Paragraph(legend, style="dim"))
    if ranking.meeting:
        _print(out, f"Meet {_shown(limits)}" if _shown(limits) else "By accuracy", ranking.meeting, missing=False)
    else:
        out.print(f"No model meets {_shown(limits)}.")
    if ranking.others:
        shown = ranking.others[:MOST_OTHERS]
        rest = len(ranking.others) - len(shown)
        out.print()
        _print(out, "Miss it, the nearest first" + (f" ({rest} more in --json)" if rest else ""), shown, missing=True)
    if ranking.untried:
        count = len(ranking.untried)
        out.print()
        models = "model was" if count == 1 else "models were"
        out.print(Paragraph(f"{count} less accurate {models} not tried: --most N, or --all."))


def _print(out: Console, title: str, candidates: Sequence[Candidate], *, missing: bool) -> None:
    energy = any(each.joules is not None for each in candidates)
    columns = ["top-1", "time", "alone", "memory", *(["energy"] if energy else []), *(["over by"] if missing else [])]
    table = figures_table("model", *columns, title=title, left=("over by",))
    for each in candidates:
        cells = [
            UNKNOWN if each.top1 is None else f"{each.top1:.1f}",
            ("≥ " if each.at_least else "") + show_seconds(each.seconds),
            UNKNOWN if each.alone_s is None else show_seconds(each.alone_s),
            UNKNOWN if each.memory_bytes is None else f"{each.memory_bytes / 1e6:.0f} MB",
        ]
        if energy:
            bound = "≥ " if each.at_least else ""
            cells.append(UNKNOWN if each.joules is None else f"{bound}{each.joules:.3g} J")
        if missing:
            cells.append(", ".join(f"{what} {_factor(factor)}" for what, factor in each.missed))
        table.add_row(Name(each.model), *cells)
    out.print(table)


def _factor(factor: float) -> str:
    return f"{factor - 1:.0%}" if factor < 2 else f"{factor:.1f}×"


def _shown(limits: Limits) -> str:
    given = (
        None if limits.seconds is None else show_seconds(limits.seconds),
        None if limits.memory_bytes is None else f"{limits.memory_bytes / 1e6:.0f} MB",
        None if limits.joules is None else f"{limits.joules:.3g} J",
    )
    return ", ".join(each for each in given if each is not None)


def choice_json(ranking: Ranking, limits: Limits, topology: Topology) -> dict[str, Any]:
    """All that was tried, in the table's order."""
    return {
        "ranks": len(topology),
        "limits": {"seconds": limits.seconds, "memory_bytes": limits.memory_bytes, "joules": limits.joules},
        "accuracy_source": source(),
        "models": [each.as_json() for each in (*ranking.meeting, *ranking.others)],
        "untried": list(ranking.untried),
    }
