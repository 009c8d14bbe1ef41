"""Paragraph: text broken between words, but never between a number and its unit."""

from __future__ import annotations

import re
import textwrap

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

UNIT = re.compile(r"(?<=\d) (?=(?:[kMGT]?(?:bit/s|B/s|FLOP/s|MAC/s|B|Hz)|[mnµ]?s|J|W|%)\b|%)")
NO_BREAK = "\xa0"


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most ``width`` characters, except for longer words. A number and its unit that need more are
    parted."""
    lines = []
    for line in _broken(UNIT.sub(NO_BREAK, text), width):
        plain = line.replace(NO_BREAK, " ")
        lines += [plain] if len(line) <= width else _broken(plain, width)
    return lines


def _broken(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


class Paragraph:
    """A rich renderable of plain text in one style."""

    def __init__(self, text: str, style: str = "") -> None:
        self.text = text
        self.style = style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("\n".join(wrapped(self.text, options.max_width)), self.style)
