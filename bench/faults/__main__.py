"""``python -m bench.faults``: inferences under faults, malformed messages, the cost of redundancy and encryption."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.faults.campaign import Campaign, Master
from bench.faults.fuzz_load import fuzz_load
from bench.faults.places import Loopback, Testbed
from fogconv.errors import FogconvError
from fogconv.planning.schemes import Scheme

Option = typer.Option


def main(
    net: Annotated[str, Option(help="The model that runs.")] = "resnet18",
    scheme: Annotated[Scheme, Option(help="Scheme of the plan.")] = Scheme.ROWS,
    inferences: Annotated[int, Option(help="Inferences under faults.")] = 200,
    faults: Annotated[int, Option(help="Faults in that time: workers killed, stopped and disconnected.")] = 54,
    malformed: Annotated[int, Option(help="Malformed messages; half against a worker, half against a master.")] = 100_000,
    half_open: Annotated[int, Option(help="Connections that never send anything.")] = 2000,
    seed: Annotated[int, Option(help="Seed of the faults.")] = 1,
    loopback: Annotated[bool, Option("--loopback", help="Use no network namespaces, even as root.")] = False,
    only: Annotated[str, Option(help="Run only these parts: inferences,link,malformed,redundancy,curve.")] = "",
    as_json: Annotated[bool, Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Four workers, killed, stopped or disconnected one after the other while inferences run; then malformed messages."""
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, _terminated)
    parts = set(only.split(",")) if only else {"inferences", "link", "malformed", "redundancy", "curve"}

    def say(line: str) -> None:
        console.print(f"[dim]{line}[/dim]", highlight=False)

    result: dict[str, Any] = {}
    try:
        if "inferences" in parts:
            # The bed's links are not loopback, and keys are not measured here.
            place = Loopback(4) if loopback or os.geteuid() else Testbed(4, flags=["--insecure"])
            with place:
                master = Master(place, net, scheme, mode="rehearse")
                try:
                    result |= Campaign(place, inferences, faults, seed, say).run(master).summary()
                finally:
                    master.close()
        if "link" in parts:
            from bench.faults.bandwidth_drop import drop

            result["link"] = {"inferences_until_replanned": None} if os.geteuid() else drop(say)
        if "malformed" in parts:
            result["malformed"] = asdict(fuzz_load(malformed, "squeezenet1_1", say, half=half_open))
        if "redundancy" in parts:
            from bench.faults.redundancy import price as redundancy_price

            result["redundancy"] = redundancy_price(say)
        if "curve" in parts:
            from bench.faults.curve import price as curve_price

            result["curve"] = curve_price(say)
    except FogconvError as error:
        print(f"bench.faults: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    if as_json:
        print(json.dumps(result))
    else:
        Console().print(table(result))


def table(result: dict[str, Any]) -> Table:
    it = Table(title="bench.faults")
    it.add_column("what")
    it.add_column("", justify="right")
    for name, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(
                f"{key} {part:.3g}" if isinstance(part, float) else f"{key} {part}" for key, part in value.items()
            )
        it.add_row(name, f"{value:.3f}" if isinstance(value, float) else str(value))
    return it


def _terminated(number: int, frame: FrameType | None) -> None:
    raise typer.Exit(128 + number)


if __name__ == "__main__":
    typer.run(main)
