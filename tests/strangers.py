"""Files of another user, for tests: given away where this user may do that, else this user becomes a stranger to them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

STRANGER = 54321


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a file, folder or link belong to another user, in the eyes of this process at least."""
    if os.geteuid() == 0:
        os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
