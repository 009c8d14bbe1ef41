"""The table of `fogconv models list`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console

from fogconv.cli.output.ellipsis import Name
from fogconv.cli.output.tables.table import figures_table
from fogconv.zoo.wheels.download import places
from fogconv.zoo.wheels.registry import WheelModel


def print_models(models: Iterable[WheelModel], console: Console | None = None) -> None:
    """A line for each model: its name, task, whether it is on this machine, the release that it comes from, its licence."""
    out = console or Console(highlight=False)
    left = ("task", "here", "licence", "needs", "wheel")
    table = figures_table("name", *left, left=left)
    table.columns[0].no_wrap = True  # the names are what is typed; those of wheels are cut instead
    table.columns[-1].no_wrap = False
    for model in models:
        wheel = f"{model.wheel.package} {model.wheel.version}"
        needs = "torch" if model.framework == "torch" else ""
        table.add_row(model.name, model.task, _here(model), model.wheel.licence, needs, Name(wheel))
    out.print(table)


def _here(model: WheelModel) -> str:
    return "yes" if places(model).model.is_file() else "no"


def models_json(models: Iterable[WheelModel]) -> dict[str, Any]:
    """The same, with what each model is for and the path of its file."""
    return {"models": [_described(model) for model in models]}


def _described(model: WheelModel) -> dict[str, Any]:
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
