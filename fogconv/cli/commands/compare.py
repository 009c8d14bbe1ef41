"""``fogconv compare``: two results of `fogconv bench` side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fogconv.cli.options.output import JsonOption
from fogconv.cli.options.values import FILE
from fogconv.cli.process.exit_codes import sentences
from fogconv.errors import visible


def compare(
    first: Annotated[Path, typer.Argument(parser=FILE, help="A file that `fogconv bench` wrote.")],
    second: Annotated[Path, typer.Argument(parser=FILE, help="Another one, of other hardware or another time.")],
    as_json: JsonOption = False,
) -> None:
    """Compare two results of `fogconv bench`: which hardware is faster at what, and where they differ by noise only."""
    with sentences("fogconv compare"):
        from fogconv.benchmark.comparison import compare as compared
        from fogconv.benchmark.record import read_record
        from fogconv.cli.output.tables.comparison import print_comparison

        records = (read_record(first), read_record(second))
        names = ("A", "B")
        found = compared(*records, names)
        if as_json:
            from fogconv.cli.output.json_text import json_text

            print(json_text({"files": [str(first), str(second)]} | found.as_json()))
        else:
            print_comparison(found, records, names, (visible(str(first)), visible(str(second))))


if __name__ == "__main__":
    typer.run(compare)
