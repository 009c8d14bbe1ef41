"""Every option explains itself: a sentence, with a unit where it is a number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest

from fogconv.cli import app
from fogconv.cli.options.values import Kind
from fogconv.cli.process.help import NAMES, flowing
from tests.cli.program import call

NUMBERS = (int, float, int | None, float | None)
COUNTED = (
    "workers|threads|ranks|models|images|frames|warm runs|groups|parts|inferences|parity workers|access points|port"
    "|input channels|output channels"
)
UNITS = rf"seconds|pixels|bytes|joules|elements|factor|fraction|times|number of (?:the )?(?:{COUNTED})"
UNITLESS = {"seed", "program"}
"""A seed is no quantity, and a rank that is named is none either."""
LOWER_CASE = {"α", "β", "γ"}
"""A text may begin with a symbol of the paper's."""


def options() -> Iterator[Any]:
    for name in app.COMMANDS:
        for parameter, hint in get_type_hints(app.command(name), include_extras=True).items():
            if parameter != "return":
                yield pytest.param(parameter, hint.__origin__, hint.__metadata__[0].help, id=f"{name}-{parameter}")


@pytest.mark.parametrize(("parameter", "kind", "text"), list(options()))
def test_an_option_explains_itself(parameter: str, kind: Any, text: str | None) -> None:
    assert text, "no help"
    assert text[0].isupper() or text[0] in LOWER_CASE
    assert text.endswith(".") and not text.endswith("..")
    assert len(text.split()) >= 3
    if kind in NUMBERS and parameter not in UNITLESS:
        assert re.search(rf"\b(?:{UNITS})\b", text, re.IGNORECASE), "a number without a unit"


@pytest.mark.parametrize("command", app.COMMANDS)
def test_values_have_names_and_no_option_is_cut_off(command: str) -> None:
    """`--input <list[Any]>` and `--size <Pair>` were Python's types, and `--access-point-bandwi…` no option."""
    shown = call(command, "--help").stdout
    options = shown.partition("─ Options ─")[2]
    assert "<" not in options.replace("`<", "") and not re.search(r"--[a-z-]+…", shown)
    assert f" {command} " in shown.splitlines()[1]


def test_every_kind_of_value_has_a_name() -> None:
    assert set(NAMES) == set(get_args(Kind))


def test_a_paragraph_is_broken_by_the_terminal_alone() -> None:
    assert flowing("One sentence\n    in two lines.\n\n    Another.") == "One sentence in two lines.\n\nAnother."
