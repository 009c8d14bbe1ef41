"""Paragraphs: no line breaks a number from its unit."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from fogconv.cli.output.paragraph import Paragraph, wrapped

WORDS = ("1.8 GHz", "940 Mbit/s", "200 µs", "31.2 GFLOP/s", "134 ms", "7.07 J", "97 %", "estimates:", "a", "link,")


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=40), st.integers(14, 100))
def test_a_number_stays_with_its_unit(words: list[str], width: int) -> None:
    lines = wrapped(" ".join(words), width)
    assert " ".join(lines) == " ".join(words)
    assert all(cell_len(line) <= width for line in lines)
    for line in lines[1:]:
        assert not line.startswith(tuple(word.split()[1] for word in WORDS if " " in word))


@pytest.mark.parametrize("text", ["4 × Cortex-A72, 1.8 GHz)", "vgg16, 4 workers: 134 ms (4.10×)"])
def test_a_console_shows_the_lines(text: str) -> None:
    out = io.StringIO()
    Console(file=out, width=24).print(Paragraph(text, style="dim"))
    assert out.getvalue().split("\n")[:-1] == wrapped(text, 24)


def test_a_number_and_its_unit_are_parted_where_they_don_t_fit() -> None:
    assert wrapped("000 W", 4) == ["000", "W"]
    assert wrapped("it takes 250 W here", 8) == ["it takes", "250 W", "here"]
