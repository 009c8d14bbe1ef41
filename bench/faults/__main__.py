"""``python -m bench.faults``: inferences under faults, nonsense from strangers, what redundancy and encryption cost."""

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
    scheme: Annotated[Scheme, Option(help="Of the plan.")] = Scheme.ROWS,
    inferences: Annotated[int, Option(help="Inferences under faults.")] = 200,
    faults: Annotated[int, Option(help="Workers killed, stopped and cut off meanwhile.")] = 54,
    malformed: Annotated[int, Option(help="Malformed messages; half against a worker, half against a master.")] = 100_000,
    half_open: Annotated[int, Option(help="Connections that never say a word.")] = 2000,
    seed: Annotated[int, Option(help="Of the faults.")] = 1,
    loopback: Annotated[bool, Option("--loopback", help="No network namespaces, even as root.")] = False,
    only: Annotated[str, Option(help="Only these parts: inferences,link,malformed,redundancy,curve.")] = "",
    as_json: Annotated[bool, Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Four workers, one after the other killed, stopped or cut off, while inferences run; then strangers."""
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, _terminated)
    parts = set(only.split(",")) if only else {"inferences", "link", "malformed", "redundancy", "curve"}

    def say(line: str) -> None:
        console.print(f"[dim]{line}[/dim]", highlight=False)

    result: dict[str, Any] = {}
    try:
        if "inferences" in parts:
            # The bed's links are no loopback, and keys are not what is measured here.
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
