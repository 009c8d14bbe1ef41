"""Auto against every fixed scheme: 24 cells of four nets, three links, even and uneven nodes, each on an emulated cluster.

    python -m bench.schemes --keep schemes.json             what is not in the file yet; kept cell by cell
    python -m bench.schemes --keep schemes.json --most 2    the next two cells
    python -m bench.schemes --keep schemes.json --seconds 900      as many cells as end in about that time
    python -m bench.schemes --keep all.json --merge one.json --merge two.json --most 0      what several runs have kept
    python -m bench.schemes --quick --json                  two small cells, under five minutes

Links are like a Raspberry Pi 4's, like a Raspberry Pi 5's (`bench.fog.boards`), or 1 Gbit/s. All schemes of a cell are
planned with the same measured rates, loaded, and run in turns; auto runs twice in each turn, and by how much the two differ
is the cell's spread. A scheme that is predicted to take over three times the best prediction is not measured, and counts as
three times the best. Needs root and Linux.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from bench.fog.boards import ETHERNET
from bench.fog.run import LOAD_TIMEOUT_S, RUN_TIMEOUT_S, Setup, calibrated, cluster_commands, shaped_like, start
from bench.fog.testbed import FogBed
from bench.schemes.cells import (
    ALL,
    AUTO,
    QUICK,
    Cell,
    behind,
    keep,
    kept,
    measured_schemes,
    merged,
    missing,
    result,
    verdict,
)
from bench.schemes.master import Job
from fogconv.cli.options.values import number
from fogconv.errors import FogconvError
from fogconv.values import table as values

ROUNDS, RUNS = 3, 4
QUICK_ROUNDS, QUICK_RUNS = 1, 3
AGAIN = "again"
TABLE_WIDTH = 140

Say = Callable[[str], None]


def measure(cell: Cell, rounds: int, runs: int, say: Say) -> dict[str, Any]:
    """One cell."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fogconv-schemes-")))
        rate = str(ETHERNET) if cell.like else cell.link
        bed = stack.enter_context(FogBed(len(cell.shares), rate))
        if cell.like is not None:
            rate = str(shaped_like(cell.like, cell.net, cell.size, cell.shares, bed, folder, say).rate)
        setup = Setup(cell.net, len(cell.shares), cell.shares, rate, size=cell.size)
        *workers, _ = cluster_commands(setup, bed, folder / "all")
        addresses = ",".join(str(command[2]) for command in workers)
        job = msgspec.json.encode(Job(cell.net, cell.size, addresses, cell.shares)).decode()
        master = start(stack, bed, folder, "all", [*workers, ["-m", "bench.schemes.master", folder / "all", job]])
        say("measuring rates, planning by every scheme")
        master.receive(LOAD_TIMEOUT_S)
        facts = calibrated(bed, master, cell.shares)
        predicted_s, same_as = facts["predicted_s"], facts["same_as"]
        chosen = list(dict.fromkeys(same_as[scheme] for scheme in measured_schemes(predicted_s)))
        say(f"loading {', '.join(chosen)}")
        master.do({"load": chosen}, LOAD_TIMEOUT_S)
        bed.set_cpu(cell.shares)
        seconds: dict[str, list[float]] = {scheme: [] for scheme in (*chosen, AGAIN)}
        error = 0.0
        for turn in range(rounds):
            say(f"round {turn + 1} of {rounds}")
            order = [*chosen, AGAIN]
            for scheme in order if turn % 2 == 0 else reversed(order):
                asked = {"scheme": same_as[AUTO] if scheme == AGAIN else scheme, "repeats": runs + 1}
                answer = master.do(asked, RUN_TIMEOUT_S)
                seconds[scheme] += answer["seconds"][1:]
                error = max(error, answer["relative_error"])
        bed.set_cpu(None)
    again = seconds.pop(AGAIN)
    return result(cell, rate, predicted_s, same_as, seconds, again, error)


def table(found: dict[str, Any]) -> Table:
    schemes = list(dict.fromkeys(scheme for cell in found["cells"] for scheme in cell["seconds"]))
    shown = Table(title="Seconds per inference; (…): not measured, predicted over three times the best")
    shown.add_column("cell", no_wrap=True)
    for column in (*schemes, "predicted", "behind"):
        shown.add_column(column, justify="right")
    for cell in found["cells"]:
        figures = []
        for scheme in schemes:
            seconds = cell["seconds"].get(scheme)
            text = "" if seconds is None else f"{seconds:.3f}"
            figures.append(f"({text})" if scheme in cell["not_measured"] else text)
        shown.add_row(cell["cell"], *figures, f"{cell['predicted_s']:.3f}", f"{behind(cell):.1%}")
    return shown


def main(
    keep_in: Annotated[
        Path | None, typer.Option("--keep", help="JSON file of the cells; those in it are not repeated.")
    ] = None,
    most: Annotated[int, typer.Option(parser=number("count", values.FRAMES), help="The most cells to measure now.")] = len(
        ALL
    ),
    seconds: Annotated[
        float | None,
        typer.Option(parser=number("seconds", values.INTERVAL), help="Begin no cell that is likely to end later."),
    ] = None,
    merge: Annotated[list[Path] | None, typer.Option(help="Further files of cells; those in them are not repeated.")] = None,
    only: Annotated[str, typer.Option(help="Only cells whose name has this text, such as vgg16 or pi4.")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Two small cells.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure auto and every fixed scheme in turns, cell by cell."""
    signal.signal(signal.SIGTERM, _terminated)  # the emulated cluster is removed at the end
    console = Console(stderr=True)
    rounds, runs = (QUICK_ROUNDS, QUICK_RUNS) if quick else (ROUNDS, RUNS)
    try:
        cells = merged(kept(file) for file in (keep_in, *(merge or ())))
        keep(keep_in, cells)
        wanted = [cell for cell in (QUICK if quick else ALL) if only in cell.name]
        left = missing(wanted, cells)[:most]
        begin = time.monotonic()
        for count, cell in enumerate(left):
            spent_s = time.monotonic() - begin
            if seconds is not None and spent_s * (count + 1) > seconds * max(1, count):
                console.print(f"{len(left) - count} cells are left after {spent_s:.0f} s")
                break
            console.print(f"{cell.name} ({count + 1} of {len(left)}, {spent_s:.0f} s so far)", soft_wrap=True)
            cells.append(measure(cell, rounds, runs, lambda line: console.print(f"[dim]{line}[/dim]", soft_wrap=True)))
            keep(keep_in, cells)
    except FogconvError as error:
        print(f"bench.schemes: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    found = verdict(cells)
    if as_json:
        print(json.dumps(found))
        return
    Console(width=TABLE_WIDTH).print(table(found))
    if cells:
        print(
            f"auto over {found['best_fixed']}, the best fixed scheme: {found['auto_vs_best_fixed']:.2f}. Behind a cell's "
            f"best by at most {found['worst_behind_pct']:.1f} % beyond its spread ({found['worst_cell']}). Predicted within "
            f"10 % in {found['predicted_within_10_pct']:.0%} of the cells."
        )


def _terminated(number: int, frame: FrameType | None) -> None:
    raise typer.Exit(128 + number)


if __name__ == "__main__":
    typer.run(main)
