"""The options for what a command prints and writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fogconv.cli.options.panels import OUTPUT
from fogconv.cli.options.values import output

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.", rich_help_panel=OUTPUT)]
TraceOption = Annotated[
    Path | None, typer.Option(parser=output(), help="Write a timeline that Perfetto opens.", rich_help_panel=OUTPUT)
]
