"""The options for the connection to a cluster, shared by all commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fogconv.cli.option_values import FOLDER
from fogconv.cli.panels import WHERE

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
