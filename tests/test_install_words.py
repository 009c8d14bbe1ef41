"""No documented command installs another project's package."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BY_NAME = re.compile(r"""pip3? install[^\n|;)]*?[\s'"]fogconv(?![\w/.-])""")
FOLDERS = ("fogconv", "kernels", "cluster", "bench", "deploy", "examples", "tools")


def test_nothing_says_to_install_fogconv_by_its_name() -> None:
    assert BY_NAME.search("pip install 'fogconv[mpi]'")
    assert BY_NAME.search("pip install -q fogconv")
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*") if file.is_file()]
    files += [ROOT / name for name in ("Containerfile", "compose.yaml", "Makefile")]
    files += [page for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")) if "_build" not in page.parts]
    wrong = [
        f"{file.relative_to(ROOT)}: {found[0]}"
        for file in files
        if "__pycache__" not in file.parts and file.suffix not in (".pyc", ".png", ".npz")
        for found in BY_NAME.finditer(file.read_text(encoding="utf-8", errors="replace"))
    ]
    assert not wrong
