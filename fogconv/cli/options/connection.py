"""The options for the connection to a cluster, or for workers in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fogconv.cli.options.panels import WHERE
from fogconv.cli.options.values import FOLDER, number
from fogconv.values import table

KeysOption = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        parser=FOLDER,
        help="Folder with this device's keys, by default the user's; if given, loopback is encrypted as well.",
        rich_help_panel=WHERE,
    ),
]
InsecureOption = Annotated[
    bool,
    typer.Option("--insecure", help="Use no encryption and no keys on a network.", rich_help_panel=WHERE),
]
InprocWorkersOption = Annotated[
    int,
    typer.Option(
        parser=number("count", table.INPROC_WORKERS),
        help="Number of workers in this process where no cluster is given; -1: one per spare core.",
        rich_help_panel=WHERE,
    ),
]
ThreadsOption = Annotated[
    int,
    typer.Option(
        parser=number("count", table.THREADS),
        help="Number of threads for kernels of the master and in-process workers; 0: all cores.",
        rich_help_panel=WHERE,
    ),
]
