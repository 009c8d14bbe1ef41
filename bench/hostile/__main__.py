"""``python -m bench.hostile``: what strangers and peers gone bad do to real workers while an honest master infers."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.hostile import silent_network
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
    inside: Annotated[tuple[str, str] | None, Option(hidden=True, help="The namespaces of who started this.")] = None,
) -> None:
    """Each attack in turn, on a worker of the honest master's or on a spare one, in a network of its own if possible."""
    console = Console(stderr=True)
    trouble = silent_network.trouble() if inside is None else ""
    if inside is None and not trouble:
        raise typer.Exit(_in_silent_network())
    chosen = [attack for attack in ATTACKS if only in attack.name and attack.cases and not (secure and attack.plain)]
    if trouble:
        console.print(f"bench.hostile: {trouble}: the attacks by silent names are left out")
        chosen = [attack for attack in chosen if not attack.names]
    outcomes = []
    try:
        with ExitStack() as stack:
            if inside is not None:
                stack.enter_context(silent_network.enter(inside))
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


def _in_silent_network() -> int:
    """This command again, where no name server answers. Returns its exit code."""
    begun = subprocess.Popen(silent_network.command("bench.hostile", [*sys.argv[1:], "--inside"]))
    with contextlib.suppress(KeyboardInterrupt):
        return begun.wait()
    return begun.wait()


if __name__ == "__main__":
    typer.run(main)
