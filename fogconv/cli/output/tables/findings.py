"""Findings: boxes, masks, regions of text and raw outputs as tables, which a run prints first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fogconv.analysis.figures import cut
from fogconv.cli.output.ellipsis import Name
from fogconv.cli.output.result import MEANINGLESS
from fogconv.cli.output.tables.table import figures_table
from fogconv.errors import visible
from fogconv.tasks.detect.boxes import Boxes
from fogconv.tasks.draw import Finding
from fogconv.tasks.raw import Raw
from fogconv.tasks.segment import Mask
from fogconv.tasks.text.regions import Regions

MOST_ROWS = 20
"""More are in ``--json``."""


def print_findings(
    findings: Sequence[tuple[str, Finding]], *, random_weights: bool, out: TextIO, width: int | None = None
) -> None:
    """Each picture's name, then what was found in it. ``width`` in columns; None: the terminal's, 80 where there is none."""
    console = Console(file=out, highlight=False, width=width)
    for name, finding in findings:
        console.print(Text(cut(name, console.width), "bold"))
        if random_weights:
            console.print(f"  {MEANINGLESS}")
        table, rows, what = _table(finding)
        if not rows:
            console.print(f"  no {what}")
            continue
        console.print(table)
        if rows > MOST_ROWS:
            console.print(f"  and {rows - MOST_ROWS} more, in --json")
    out.flush()


def _table(finding: Finding) -> tuple[Table, int, str]:
    """The table, how many rows it would have in full, and of what."""
    if isinstance(finding, Boxes):
        table = figures_table("label", "score", "left", "top", "right", "bottom")
        for box in finding.boxes[:MOST_ROWS]:
            edges = (f"{edge:.0f}" for edge in (box.left, box.top, box.right, box.bottom))
            table.add_row(Name(visible(box.label)), f"{box.score:.2f}", *edges)
        return table, len(finding.boxes), "boxes"
    if isinstance(finding, Mask):
        table = figures_table("label", "pixels", "share")
        for segment in finding.segments[:MOST_ROWS]:
            table.add_row(Name(visible(segment.label)), f"{segment.pixels}", f"{segment.share:.1%}")
        return table, len(finding.segments), "classes"
    if isinstance(finding, Regions):
        return _regions(finding), len(finding.regions), "text"
    assert isinstance(finding, Raw)
    table = figures_table("output", "shape", "least", "greatest", "mean")
    for output in finding.outputs[:MOST_ROWS]:
        values = output.values.astype(np.float64)
        figures = (f"{each:.4g}" for each in (values.min(), values.max(), values.mean())) if values.size else ("–",) * 3
        table.add_row(Name(visible(output.name)), "×".join(map(str, output.values.shape)), *figures)
    return table, len(finding.outputs), "outputs"


def _regions(found: Regions) -> Table:
    read = any(region.text is not None for region in found.regions)
    table = figures_table("text" if read else "region", "score", "corners", left=("corners",))
    for number, region in enumerate(found.regions[:MOST_ROWS], 1):
        score = region.score if region.text_score is None else region.text_score
        name = f"{number}" if region.text is None else visible(region.text)
        table.add_row(Name(name), f"{score:.2f}", "  ".join(f"{x},{y}" for x, y in region.corners))
    return table
