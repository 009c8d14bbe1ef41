"""Run the blocks of pages and write what they print into the output blocks below them, at 80 columns.

    python -m docs.capture_output                     README.md and every page
    python -m docs.capture_output docs/quickstart.md  some pages

An output block that holds a line … keeps its text, for it shows an extract; edit that by hand.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tests.docs.pages import COLUMNS, PageRun, blocks, missing, pages


def capture(page: Path) -> None:
    """Rewrite the page in place where an output has changed in more than its numbers, or stands empty."""
    found = blocks(page)
    if not any(block.shown for block in found):
        return
    lines = page.read_text(encoding="utf-8").splitlines()
    changes: list[tuple[int, int, list[str]]] = []
    with tempfile.TemporaryDirectory() as folder, PageRun(Path(folder)) as run:
        for block in found:
            if block.mark:
                continue
            printed = run.run(block)
            shown = block.shown
            if shown is None or "…" in shown.text.splitlines():
                continue
            # Figures are kept as they were where nothing else changed: a page is no log of this machine's moods.
            if not shown.text.strip() or missing(shown.text, printed) or missing(printed, shown.text):
                changes.append((shown.first, shown.end, [line.rstrip() for line in printed.strip("\n").splitlines()]))
    for first, end, new in reversed(changes):
        lines[first:end] = new
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{page.name}: {len(changes)} outputs written")


def main() -> None:
    os.environ["COLUMNS"] = str(COLUMNS)
    for page in [Path(name).resolve() for name in sys.argv[1:]] or pages():
        capture(page)


if __name__ == "__main__":
    main()
