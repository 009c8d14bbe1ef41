"""Write docs/commands.md, the reference of the commands and their options, from the program itself.

    python -m docs.write_commands

`make docs` does so before it builds. The file is not kept in the repository: the program is where the texts are written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from fogconv.cli.app import COMMANDS, application

OTHER_OPTIONS = "Options"
"""What the options without a group of their own are listed under."""


def write_commands(path: Path) -> None:
    path.write_text(commands_page(), encoding="utf-8")


def commands_page() -> str:
    """The page as Markdown: a section per command, a table per group of options."""
    commands: dict[str, Any] = get_command(application()).commands  # type: ignore[attr-defined]
    lines = [
        "# Commands",
        "",
        "`fogconv COMMAND --help` prints the same. `fogconv-run`, `fogconv-worker` and `fogconv-speedup` are short for",
        "`fogconv run`, `fogconv worker` and `fogconv speedup`, and `python -m fogconv` is the same as `fogconv`.",
    ]
    for name in COMMANDS:
        lines += ["", *_command(name, commands[name])]
    return "\n".join(lines) + "\n"


def _command(name: str, command: Any) -> Iterator[str]:
    yield f"## fogconv {name}"
    yield ""
    yield " ".join(line.strip() for line in (command.help or "").splitlines())
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    if arguments:
        yield from ("", "| argument | meaning |", "|---|---|")
        yield from (f"| `{argument.name}` | {_cell(argument.help)} |" for argument in arguments)
    groups: dict[str, list[Any]] = {}
    for option in options:
        if "--help" not in option.opts and not getattr(option, "hidden", False):
            groups.setdefault(getattr(option, "rich_help_panel", None) or OTHER_OPTIONS, []).append(option)
    for group, members in groups.items():
        yield from ("", f"**{group}**", "", "| option | default | meaning |", "|---|---|---|")
        for option in members:
            names = ", ".join(f"`{spelling}`" for spelling in (*option.opts, *option.secondary_opts))
            yield f"| {names} | {_default(option)} | {_cell(option.help)} |"


def _default(option: Any) -> str:
    if option.required:
        return "required"
    value = option.default
    if getattr(option, "is_flag", False):
        return "on" if value is True else "off"
    return "" if value is None or value == "" or callable(value) else f"`{value}`"


def _cell(text: str | None) -> str:
    """A help text as one cell of a table."""
    return " ".join((text or "").split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    write_commands(Path(__file__).with_name("commands.md"))
