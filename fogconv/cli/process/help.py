"""Help: what the values of options are called in ``--help``, and texts that fill the terminal's width."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

NAMES = {
    "count": "NUMBER",
    "seconds": "TIME",
    "bytes": "BYTES",
    "joules": "ENERGY",
    "rate": "RATE",
    "ratio": "NUMBER",
    "figure": "NUMBER",
    "pixels": "NUMBER",
    "sizes": "SIZE",
    "ratios": "NUMBERS",
    "seed": "NUMBER",
    "input": "NAME=FILE",
    "file": "FILE",
    "output": "FILE",
    "folder": "FOLDER",
    "picture": "PICTURE",
    "pictures": "PICTURES",
    "weights": "WEIGHTS",
    "model": "MODEL",
    "net": "NET",
    "address": "ADDRESS",
    "trigger": "RULE",
    "split": "SPLIT",
    "straggler": "RANKxFACTOR",
    "sweep": "FIGURE=A..B",
    "pin": "LAYER=RANK",
    "rates": "RATES",
    "executor": "NAME",
    "tiles": "ROWSxCOLUMNS",
}
"""What a value is called, by the kind of its option (`fogconv.cli.options.values.Kind`). Typer would show Python's type."""


def plain(command: typer.Typer) -> typer.Typer:
    """A program with help of this kind, for all commands that it has."""
    for each in command.registered_commands:
        each.cls = PlainCommand
        if each.callback is not None and each.help is None:
            each.help = flowing(each.callback.__doc__ or "")
        elif each.help is not None:
            each.help = flowing(each.help)
    command.info.cls = PlainGroup
    return command


class PlainCommand(TyperCommand):
    """A command whose help names values in words."""

    def get_params(self, ctx: Any) -> list[Any]:
        return [_named(parameter) for parameter in super().get_params(ctx)]


class PlainGroup(TyperGroup):
    """The program above such commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        return [_named(parameter) for parameter in super().get_params(ctx)]


def flowing(docstring: str) -> str:
    """Each paragraph in one line: the terminal breaks it, and no longer the source's width as well."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in docstring.split("\n\n"))


def _named(parameter: Any) -> Any:
    """The parameter, a `TyperOption` or `TyperArgument`, with the name of its value."""
    if parameter.metavar is not None:
        return parameter
    if parameter.param_type_name == "argument":
        parameter.metavar = parameter.name.upper()
        return parameter
    descriptor = getattr(parameter, "type_descriptor", None)  # not in every version of Typer
    if getattr(parameter, "is_flag", False):
        parameter.metavar = ""
    elif descriptor is not None and descriptor.choices:
        parameter.metavar = " |\n".join(str(getattr(choice, "value", choice)) for choice in descriptor.choices)
    elif descriptor is not None:
        parser: Any = getattr(descriptor.parameter_info, "parser", None)
        parameter.metavar = NAMES.get(getattr(parser, "kind", ""))
    return parameter
