"""The folder of this user's data: files that were downloaded on purpose, and that no cache's limit removes."""

from __future__ import annotations

import os
from pathlib import Path


def data_folder() -> Path:
    """$XDG_DATA_HOME/fogconv, or else ~/.local/share/fogconv. It need not exist."""
    shared = os.environ.get("XDG_DATA_HOME")
    return (Path(shared) if shared else Path(os.environ.get("HOME") or "/") / ".local" / "share") / "fogconv"
