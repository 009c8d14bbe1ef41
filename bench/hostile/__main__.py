"""``python -m bench.hostile``: what strangers and peers gone bad do to real workers while an honest master infers."""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.hostile.attacks import ATTACKS
from bench.hostile.siege import Outcome, Siege
from fogconv.errors import FogconvError

Option = typer.Option

QUICK_S = 3.0


def main(
    net: Annotated[str, Option(help="The model that the honest master runs.")] = "squeezenet1_1",
    seconds: Annotated[float, Option(help="Of each attack.")] = 10.0,
    quick: Annotated[bool, Option("--quick", help=f"{QUICK_S:g} seconds of each.")] = False,
    secure: Annotated[bool, Option("--secure", help="With keys: only the attacks of those who have none.")] = False,
    only: Annotated[str, Option(help="Only attacks whose name has this in it.")] = "",
    as_json: Annotated[bool, Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Each attack in turn, on a worker of the honest master's or on a spare one."""
    console = Console(stderr=True)
    chosen = [attack for attack in ATTACKS if only in attack.name and attack.cases and not (secure and attack.plain)]
    outcomes = []
    try:
        with ExitStack() as stack:
            keys = Path(stack.enter_context(tempfile.TemporaryDirectory())) if secure else None
            said = lambda line: console.print(f"[dim]{line}[/dim]", highlight=False)  # noqa: E731
            siege = stack.enter_context(Siege(net, QUICK_S if quick else seconds, said, keys))
            for attack in chosen:
                outcomes.append(siege.strike(attack))
                said(str(outcomes[-1]))
    except FogconvError as error:
        print(f"bench.hostile: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    if as_json:
        print(json.dumps({"attacks": [asdict(outcome) for outcome in outcomes]}))
    else:
        Console().print(table(outcomes))


def table(outcomes: list[Outcome]) -> Table:
    it = Table("attack", "alive", "growth MB", "honest ok", "worst extra s", "inferences", title="bench.hostile")
    for outcome in outcomes:
        row = (outcome.name, outcome.alive, outcome.peak_growth_mb, outcome.honest_ok, outcome.worst_extra_s)
        it.add_row(*(str(value) for value in row), str(outcome.inferences))
    return it


if __name__ == "__main__":
    typer.run(main)
