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
    print("if this device is a master: add the public key as a line to the file 'masters' on each worker")
    print("if this device is a worker: add the line 'HOST KEY' to the file 'workers' on its master")
