"""Text that has less room than it needs."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from fogconv.analysis.figures import MARK, cut
from fogconv.cli.output.ellipsis import Name, fold
from fogconv.cli.output.tables.table import figures_table

TEXT = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), max_size=60)


def test_a_name_loses_its_middle() -> None:
    assert cut("layer2.0.downsample.0", 16) == "layer2…nsample.0"
    assert cut("conv1", 16) == "conv1"


@given(TEXT, st.integers(0, 60))
def test_a_cut_name_keeps_both_ends_and_the_width(name: str, width: int) -> None:
    found = cut(name, width)
    assert cell_len(found) <= width
    if found != name and width > 2:
        head, _, tail = found.partition(MARK)
        assert name.startswith(head) and name.endswith(tail) and len(head) <= len(tail)


def test_wide_characters_count_twice() -> None:
    assert cell_len(cut("写真の長い名前.png", 10)) <= 10


@given(st.lists(TEXT, max_size=30).map(" ".join), st.integers(4, 100), st.integers(1, 5))
def test_folded_text_keeps_to_its_lines_and_breaks_no_word(text: str, width: int, lines: int) -> None:
    found = fold(text, width, lines)
    assert len(found) <= lines
    assert all(cell_len(line) <= width for line in found)
    words = set(text.split())
    for word in " ".join(found).split():
        assert word in words or MARK in word or any(whole.startswith(word) for whole in words)


def test_a_table_cuts_its_names_and_no_figure() -> None:
    table = figures_table("layer", "a", "b")
    table.add_row(Name("features.denseblock4.denselayer16.conv2", "3×3 128→32 7×7"), "123456", "9876543")
    out = io.StringIO()
    Console(file=out, width=34).print(table)
    _header, first, second = out.getvalue().splitlines()
    assert len(first) <= 34 and "123456 9876543" in first
    assert first.split()[0].startswith("feat") and first.split()[0].endswith("conv2") and MARK in first
    assert second.strip() == "3×3 128→32 7×7"
