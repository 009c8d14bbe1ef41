"""Every code block of the README and the documentation runs, or carries one of three marks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.docs.pages import MARKS, ROOT, RUN, Block, PageRun, blocks, missing, pages

MARKED = {"board": 5, "root": 2, "container": 2, "network": 4}
"""So many blocks need a board of one's own, root, a container engine, or a package index. More of them need a reason."""

ALL = {page: blocks(page) for page in pages()}


def test_marked_blocks_are_few_and_counted() -> None:
    assert Counter(block.mark for found in ALL.values() for block in found if block.mark) == Counter(MARKED)
    assert set(MARKED) == set(MARKS)


def test_blocks_run_or_are_the_output_of_one_that_does() -> None:
    assert [block.name for found in ALL.values() for block in found if block.language not in RUN] == []


@pytest.mark.alone
@pytest.mark.parametrize("page", [page for page in ALL if ALL[page]], ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_of_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with PageRun(tmp_path) as run:
        for block in ALL[page]:
            if not block.mark:
                check(run, block)


def check(run: PageRun, block: Block) -> None:
    printed = run.run(block)
    if block.shown is not None:
        line = missing(block.shown.text, printed)
        assert line is None, f"{block.name}: not printed: {line}\n{printed}"
