"""Report: the summary below the answer and, on request, the table of the layers."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.text import Text

from fogconv.cli.output.paragraph import Paragraph
from fogconv.cli.output.result import Result
from fogconv.cli.output.summary import LABEL, summary_lines
from fogconv.cli.output.tables.layers import layer_table, legend


def print_report(
    result: Result, *, out: TextIO, alone: bool = False, layers: bool = False, width: int | None = None
) -> None:
    """``width`` in columns; None: the terminal's, 80 where there is none. ``alone``: mpirun started one rank only."""
    console = Console(file=out, highlight=False, width=width)
    console.print()
    for line in summary_lines(result, console.width, alone=alone):
        console.print(Text.assemble((line[:LABEL], "dim"), line[LABEL:]))
    if layers:
        console.print()
        console.print(Paragraph(legend(result.scheme), style="dim"))
        console.print(layer_table(result.layers, result.scheme, result.predicted_s, result.latency_s))
