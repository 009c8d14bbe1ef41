"""``fogconv keygen``: make this device's key pair."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fogconv.cli.options.values import FOLDER
from fogconv.cluster.protocol.keys import default_folder, write_keys
from fogconv.errors import visible


def keygen(
    folder: Annotated[
        Path | None, typer.Argument(parser=FOLDER, help="Folder for the keys; by default the user's configuration folder.")
    ] = None,
) -> None:
    """Make a key pair (CURVE) for this device, and print what to do with it."""
    where = folder or default_folder()
    pair = write_keys(where)
    print(f"wrote {visible(str(where / 'key'))} (secret, mode 0600) and {visible(str(where / 'key.pub'))}")
    print(f"public key: {pair.public}")
    print("on a worker, list it in the file 'masters' if this is a master;")
    print("on a master, list 'HOST KEY' in the file 'workers' if this is a worker at HOST")
