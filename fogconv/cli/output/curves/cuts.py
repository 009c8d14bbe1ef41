"""The output of `fogconv cuts`: a line per cut, a column per rate of the link; the best ones starred."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TextIO

from rich.console import Console

from fogconv.analysis.figures import byte_count, short
from fogconv.choice.cuts import Curve, Cut
from fogconv.cli.output.ellipsis import Name
from fogconv.cli.output.paragraph import Paragraph
from fogconv.cli.output.tables.table import figures_table
from fogconv.hardware.units import show_bandwidth, show_seconds

LEGEND = (
    "The master computes the layers up to the cut, the worker the others; the answer returns to the master. sent: bytes "
    "from the master per inference. The other columns are bandwidths of the link, instead of the device's own. *: the best "
    "cut for it."
)
UNKNOWN = "–"


def print_cuts(
    name: str, cuts: Sequence[Cut], curves: Sequence[Curve], described: str, *, out: TextIO, width: int | None = None
) -> None:
    """``described``: a sentence about the devices. ``width`` in columns; None: the terminal's."""
    console = Console(file=out, highlight=False, width=width)
    console.print(Paragraph(f"{name}, cut between a master and a worker. {described}"))
    console.print(Paragraph(LEGEND, style="dim"))
    _print(console, "Seconds", cuts, curves, lambda each: each.seconds, lambda each: each.fastest, show_seconds)
    if any(value is not None for each in curves for value in each.joules):
        console.print()
        _print(console, "Joules of both", cuts, curves, lambda each: each.joules, lambda each: each.frugalest, _joules)


def _joules(value: float) -> str:
    return f"{short(value)} J"


def _print(
    console: Console,
    title: str,
    cuts: Sequence[Cut],
    curves: Sequence[Curve],
    values: Callable[[Curve], Sequence[float | None]],
    best: Callable[[Curve], int | None],
    shown: Callable[[float], str],
) -> None:
    # Rates that have no room beside the names go into a further table.
    room = max(1, (console.width - 22) // 13)
    for first in range(0, len(curves), room):
        part = curves[first : first + room]
        rates = [show_bandwidth(each.bandwidth_bytes_per_s) for each in part]
        table = figures_table("cut after", "sent", *rates, title=title)
        for number, cut in enumerate(cuts):
            cells = []
            for each in part:
                value = values(each)[number]
                star = "*" if best(each) == number else " "
                cells.append((UNKNOWN if value is None else shown(value)) + star)
            label = "input" if not number else "output" if number == len(cuts) - 1 else cut.after
            table.add_row(Name(label), f"{byte_count(cut.sent_bytes)}B" if cut.sent_bytes else "", *cells)
        console.print(table)
