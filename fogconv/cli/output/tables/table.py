"""Table: names on the left, figures on the right. Figures are always whole; names are cut in the middle where room is
short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table


def figures_table(first: str, *others: str, title: str | None = None, left: Sequence[str] = ()) -> Table:
    """A borderless table. The first column takes `fogconv.cli.output.ellipsis.Name`s; the others are right-aligned,
    except those named in ``left``, and keep their width."""
    table = Table(
        title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold"
    )  # fmt: skip
    table.add_column(first)
    for name in others:
        justify: Any = "left" if name in left else "right"
        table.add_column(name, justify=justify, no_wrap=True)
    return table
