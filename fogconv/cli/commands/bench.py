"""``fogconv bench``: time a fixed set of kernels, links and nets, for `fogconv compare`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from fogconv.cli.options.connection import InsecureOption, KeysOption
from fogconv.cli.options.panels import HOW, OUTPUT, WHERE
from fogconv.cli.options.precision import FP32, PrecisionName
from fogconv.cli.options.values import CLUSTER, output
from fogconv.cli.output.written import say_written
from fogconv.cli.process.exit_codes import sentences
from fogconv.errors import InputError


def bench(
    cluster: Annotated[
        str,
        typer.Option(
            parser=CLUSTER,
            help="Workers as inproc://N, tcp://HOST:PORT,…, mpi:// or a hostfile; by default none.",
            rich_help_panel=WHERE,
        ),
    ] = "inproc://0",
    keys: KeysOption = None,
    insecure: InsecureOption = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure fewer nets and repeats, in a fourth of the time.", rich_help_panel=HOW)
    ] = False,
    precision: Annotated[
        PrecisionName, typer.Option("--precision", help="What kernels and nets compute with.", rich_help_panel=HOW)
    ] = FP32,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            parser=output(),
            help="Write the result to this file, by default bench-HOST.json here.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print the result on stdout, and write no file but that of --out.", rich_help_panel=OUTPUT
        ),
    ] = False,
) -> None:
    """Time a fixed set: a conv of each kernel class, links, whole nets. It takes about a minute, and needs no torch."""
    with sentences("fogconv bench"):
        target = out or (None if as_json else Path(f"bench-{os.uname().nodename}.json"))
        if target is not None and not os.access(target.parent, os.W_OK):
            raise InputError(f"{target} can't be written: give a file in a folder of yours by --out")
        from fogconv.benchmark.measurement import measure
        from fogconv.benchmark.record import write_record
        from fogconv.cli.output.console import ProgressLine
        from fogconv.cli.output.tables.comparison import print_record
        from fogconv.cluster.connect import connect

        with (
            connect(cluster, keys=keys, insecure=insecure) as session,
            ProgressLine(quiet=as_json) as progress,
        ):
            if session.ranks > 1 and not session.workers:
                raise InputError(f"no worker of {cluster} answers")
            found = measure(session, cluster, quick=quick, precision=str(precision), progress=progress)
        if target is not None:
            write_record(found, target)
        if as_json:
            import msgspec

            from fogconv.cli.output.json_text import json_text

            print(json_text(msgspec.to_builtins(found)))
        else:
            print_record(found)
        if target is not None:
            say_written(target)


if __name__ == "__main__":
    typer.run(bench)
