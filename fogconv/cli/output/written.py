"""Written: a command says which file it wrote."""

from __future__ import annotations

import sys
from pathlib import Path

from fogconv.errors import visible


def say_written(path: Path) -> None:
    """On standard error, since standard output may hold JSON. A file's name may hold what terminals obey."""
    print(f"wrote {visible(str(path))}", file=sys.stderr)
