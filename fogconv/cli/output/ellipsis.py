"""Ellipsis: shortening of text. Names are cut in the middle and never broken in two."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from fogconv.analysis.figures import MARK, cut
from fogconv.cli.output.paragraph import wrapped


def fold(text: str, width: int, lines: int) -> list[str]:
    """At most ``lines`` lines, broken between words. Longer text ends in an ellipsis; a word longer than a line is cut in
    the middle."""
    words = " ".join(cut(word, width) for word in text.split())
    found = wrapped(words, width)
    if len(found) <= lines:
        return found
    kept = found[:lines]
    while kept[-1] and cell_len(kept[-1]) + 2 > width:
        kept[-1] = kept[-1].rpartition(" ")[0]
    kept[-1] = f"{kept[-1].rstrip(' ,;:')} {MARK}".strip()
    return kept


class Name:
    """A cell of a rich table whose lines are cut in their middle to the column's width. Lines after the first are dim."""

    def __init__(self, *lines: str, style: str = "", least: int = 12) -> None:
        self.lines = lines
        self.style = style
        self.least = least

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        longest = max((cell_len(line) for line in self.lines), default=0)
        return Measurement(min(longest, self.least), longest)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line, style in zip(self.lines, _styles(len(self.lines), self.style), strict=True):
            yield Text(cut(line, options.max_width), style, no_wrap=True)


def _styles(count: int, first: str) -> Sequence[str]:
    return (first, *("dim" for _ in range(count - 1)))[:count]
