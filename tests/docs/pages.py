"""Page: a Markdown page and its code blocks, which run in the order in which they stand.

A block's first word is its language: ``sh`` and ``python`` run, ``text`` is the output of the block before it. A second
word is a mark, which says that the block needs more than this machine: ``board``, ``root``, ``container`` or ``network``
(a package index).
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
MARKS = ("board", "root", "container", "network")
RUN = ("sh", "python")
OUTPUT = "text"
BLOCK_TIMEOUT_S = 120.0
COLUMNS = 80


@dataclass(frozen=True)
class Block:
    """One fenced block. ``first`` and ``end`` are its lines without the fences, from 0; ``shown`` is the output below it."""

    page: Path
    first: int
    end: int
    language: str
    mark: str
    text: str
    shown: Block | None = None

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.first + 1}"


def pages() -> list[Path]:
    """README and every page of docs/ that is written by hand."""
    written = [path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts and path.name != "commands.md"]
    return [ROOT / "README.md", *sorted(written)]


def blocks(page: Path) -> list[Block]:
    """The page's blocks; an output belongs to the block above it. Directives of Sphinx are no blocks."""
    found: list[Block] = []
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type != "fence" or token.map is None or token.info.startswith("{"):
            continue
        language, _, mark = token.info.partition(" ")
        block = Block(page, token.map[0] + 1, token.map[1] - 1, language, mark.strip(), token.content)
        if language == OUTPUT and found and found[-1].shown is None and found[-1].language in RUN:
            found[-1] = Block(**{**vars(found[-1]), "shown": block})
        else:
            found.append(block)
    return found


@dataclass
class PageRun:
    """Runs a page's blocks in one folder, which holds links to the repository's files. Close it: workers end with it."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entry in ROOT.iterdir():
            if entry.name not in (".git", ".venv"):
                (self.folder / entry.name).symlink_to(entry)
        # An environment that `make` takes for complete, whatever the dates of the files that it was made from.
        (self.folder / ".venv").mkdir()
        (self.folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
        (self.folder / ".venv" / ".ready").touch()
        self._started: list[subprocess.Popen[bytes]] = []
        self._names: dict[str, Any] = {"__name__": "__main__"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def run(self, block: Block) -> str:
        """What the block prints. Raises AssertionError where a shell block fails, and whatever a Python block raises."""
        return self._shell(block) if block.language == "sh" else self._python(block)

    def _shell(self, block: Block) -> str:
        output = self.folder / f"output-{len(self._started)}"
        script = f"set -euo pipefail\n{block.text}"
        with output.open("wb") as file:
            # What a block leaves in the background outlives its shell, so the output goes into a file and not a pipe.
            process = subprocess.Popen(
                ["bash", "-c", script],
                cwd=self.folder,
                env=self._shell_environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._started.append(process)
            code = process.wait(BLOCK_TIMEOUT_S)
        printed = output.read_text(encoding="utf-8", errors="replace")
        assert code == 0, f"{block.name}: exit code {code}\n{block.text}\n{printed}"
        return printed

    def _shell_environment(self) -> dict[str, str]:
        programs = Path(sys.executable).parent
        return {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": str(COLUMNS),
            "NO_COLOR": "1",
            "TERM": "dumb",
            # Keys and models are kept here, and not in the user's own folders.
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "XDG_DATA_HOME": str(self.folder / "data"),
            **self.environment,
        }

    def _python(self, block: Block) -> str:
        printed = io.StringIO()
        code = compile("\n" * block.first + block.text, str(block.page), "exec")
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(printed):
            exec(code, self._names)
        return printed.getvalue()


_NUMBER = re.compile(r"[-+]?\d[\d.,]*( ?(ns|µs|us|ms|s|B|kB|MB|GB|MACs|%)(?![a-zA-Z]))?")


def masked(text: str) -> list[str]:
    """The lines without blank ones, with every number (and its unit) as #, bars and runs of spaces as one space."""
    lines = (" ".join(re.sub(r"[█▉▊▋▌▍▎▏#─━]+", " ", _NUMBER.sub("#", line)).split()) for line in text.splitlines())
    return [line for line in lines if line]


def missing(shown: str, printed: str) -> str | None:
    """The first line shown that was not printed, in this order; None where all were.

    A line … stands for any lines, and … within a line for any text.
    """
    rest: Iterator[str] = iter(masked(printed))
    for line in masked(shown):
        pattern = re.compile(".*".join(re.escape(part) for part in line.split("…")))
        if line != "…" and not any(pattern.fullmatch(found) for found in rest):
            return line
    return None
