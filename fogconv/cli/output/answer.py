"""Answer: the model's likeliest classes for each picture, which a run prints first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from fogconv.analysis.figures import cut
from fogconv.cli.output.ellipsis import fold
from fogconv.cli.output.result import MEANINGLESS, OutputFigures
from fogconv.tasks.classify import Guess

Answers = Sequence[tuple[str, Sequence[Guess]]]
"""Each picture's name and its classes, the likeliest first."""

BAR = 24
"""Columns of a bar that stands for 100 %."""
PARTS = " ▏▎▍▌▋▊▉"
"""Eighths of a column."""


def print_answer(answers: Answers, *, random_weights: bool, out: TextIO, width: int | None = None) -> None:
    """``width`` in columns; None: the terminal's, 80 where there is none."""
    console = Console(file=out, highlight=False, width=width)
    for line in answer_lines(answers, console.width, random_weights=random_weights):
        console.print(Text(line, "" if line.startswith(" ") else "bold"))
    out.flush()


def answer_lines(answers: Answers, width: int, *, random_weights: bool) -> list[str]:
    """The picture's name, then its five likeliest classes, one per line; no line is wider than ``width``."""
    lines = []
    for image, guesses in answers:
        lines.append(cut(image, width))
        lines += _scores(guesses, width) if random_weights else _bars(guesses, width)
    return lines


def print_outputs(outputs: Sequence[OutputFigures], *, out: TextIO, width: int | None = None) -> None:
    """A line per output, for a model whose outputs have no known meaning: its name, shape and range of values."""
    console = Console(file=out, highlight=False, width=width)
    for output in outputs:
        shape = "×".join(map(str, output.shape)) or "a number"
        line = f"{shape}  {output.dtype}  {output.least:.4g} … {output.most:.4g}"
        console.print(Text(f"{cut(output.name, max(8, console.width - len(line) - 2))}  {line}"))
    out.flush()


def _bars(guesses: Sequence[Guess], width: int) -> list[str]:
    long = min(BAR, max(4, width // 3))
    return [
        f"  {100 * guess.probability:5.1f} %  {bar(guess.probability, long)}  {cut(guess.label, width - long - 13)}"
        for guess in guesses
    ]


def _scores(guesses: Sequence[Guess], width: int) -> list[str]:
    named = ", ".join(guess.label for guess in guesses)
    return [f"  {line}" for line in fold(f"{MEANINGLESS}: {named}", width - 2, 2)]


def bar(part: float, width: int) -> str:
    """A bar of ``width`` columns, filled to ``part`` from 0 to 1, in eighths of a column."""
    eighths = round(min(1.0, max(0.0, part)) * width * 8)
    full = "█" * (eighths // 8) + PARTS[eighths % 8].strip()
    return full + " " * (width - cell_len(full))
