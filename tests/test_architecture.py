"""ARCHITECTURE.md shows a program and names packages: both are held to what is."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "ARCHITECTURE.md").read_text()

pytestmark = pytest.mark.alone


def test_architecture_shows_the_program_that_its_command_prints() -> None:
    found = re.search(r"`(fogconv plan [^`]*--program \d+)`.*?```\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    command, shown = found[1], [line for line in found[2].splitlines() if line and line.strip() != "…"]
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)], capture_output=True, text=True, check=True, cwd=ROOT, timeout=200
    )
    lines = iter(done.stdout.splitlines())
    assert all(line in lines for line in shown), "the lines shown are those printed, in their order"


def test_architecture_names_every_package() -> None:
    packages = {folder.name for folder in (ROOT / "fogconv").iterdir() if (folder / "__init__.py").exists()}
    missing = {name for name in packages if f"`{name}`" not in TEXT and f"`{name}/" not in TEXT and f" {name} " not in TEXT}
    assert not missing, missing
