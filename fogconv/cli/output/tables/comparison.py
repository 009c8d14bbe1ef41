"""The output of `fogconv bench` and `fogconv compare`: what was timed, on what, and which of two is faster."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from fogconv.analysis.figures import cut
from fogconv.benchmark.comparison import Comparison, Row
from fogconv.benchmark.record import GROUPS, Record
from fogconv.cli.output.ellipsis import Name
from fogconv.cli.output.paragraph import Paragraph
from fogconv.cli.output.tables.table import figures_table
from fogconv.errors import visible
from fogconv.hardware.units import show_seconds

MUCH_OTHER_WORK = 0.5
MOST_NAMES = 3


def print_record(record: Record, console: Console | None = None) -> None:
    """What was measured: median and spread of every item."""
    out = console or Console(highlight=False)
    for line in machine_lines(record):
        out.print(Paragraph(line, style="dim"))
    for group in GROUPS:
        items = [item for item in record.items if item.group == group]
        if items:
            details = any(item.detail for item in items)
            table = figures_table(group, "median", "± spread", "runs", *(["on"] if details else []), left=("on",))
            for item in items:
                cells = [show_seconds(item.seconds), f"{item.spread:.0%}", str(item.runs)]
                table.add_row(Name(visible(item.name)), *cells, *([item.detail] if details else []))
            out.print(table)
    for name, why in record.skipped.items():
        out.print(Paragraph(f"{name} was left out: {why}."))
    if record.other_cores > MUCH_OTHER_WORK:
        busy = f"Other work kept {record.other_cores:.1f} cores busy here: measure again on a quiet machine."
        out.print(Paragraph(busy))
    out.print(f"Measured in {record.took_s:.0f} s.")


def machine_lines(record: Record) -> Sequence[str]:
    """The master and its processor; then the workers, equal ones together."""
    first, *workers = record.machines
    quota = f", a quota of {first.quota_cores:g}" if first.quota_cores else ""
    cores = f"{_count(first.threads, 'thread')} on {_count(first.cores, 'core')}{quota}, {first.isa}"
    lines = [f"{first.host}: {cut(record.cpu, 60)}; {cores}; fogconv {record.versions.get('fogconv', first.software)}"]
    if record.precision != "fp32":
        lines[0] += f"; in {record.precision}"
    kinds: dict[str, list[str]] = {}
    for worker in workers:
        kinds.setdefault(f"{_count(worker.threads, 'thread')}, {worker.isa}", []).append(worker.host)
    for kind, hosts in kinds.items():
        names = list(dict.fromkeys(hosts))
        shown = ", ".join(names[:MOST_NAMES]) + (", …" if len(names) > MOST_NAMES else "")
        lines.append(f"{_count(len(hosts), 'worker')} ({shown}): {kind}")
    return [visible(line) for line in lines]


def print_comparison(
    found: Comparison,
    records: tuple[Record, Record],
    names: tuple[str, str],
    files: tuple[str, str],
    console: Console | None = None,
) -> None:
    """Two results side by side. ``names`` are short, for the columns."""
    out = console or Console(highlight=False)
    for record, name, file in zip(records, names, files, strict=True):
        first, *rest = machine_lines(record)
        out.print(Paragraph(f"{name} {file}: {first}"))
        for line in rest:
            out.print(Paragraph(f"  {line}"))
    first_name, second_name = names
    for caution in found.cautions:
        out.print(Paragraph(visible(f"Mind: {caution}.")))
    for group in GROUPS:
        rows = [row for row in found.rows if row.first.group == group]
        if not rows:
            continue
        table = figures_table(group, first_name, "± ", second_name, " ±", f"{first_name}/{second_name}", "", left=("",))
        for row in rows:
            cells = [
                show_seconds(row.first.seconds),
                f"{row.first.spread:.0%}",
                show_seconds(row.second.seconds),
                f"{row.second.spread:.0%}",
                _ratio(row.ratio),
            ]
            table.add_row(Name(visible(row.first.name)), *cells, _verdict(row, names))
        mean = found.mean(group)
        if mean is not None and len(rows) > 1:
            table.add_row("geometric mean", "", "", "", "", _ratio(mean), "", style="bold")
        out.print(table)
    mean = found.mean()
    if mean is None:
        out.print("They have no item in common.")
    else:
        faster, slower = (second_name, first_name) if mean >= 1 else (first_name, second_name)
        noise = all(row.within_noise for row in found.rows)
        times = f"{max(mean, 1 / mean):.2f} times as fast as {slower}"
        out.print(
            Paragraph(
                f"They differ by noise only; the geometric mean of all items is {_ratio(mean)}."
                if noise
                else f"{faster} is {times}, by the geometric mean of all items."
            )
        )
    for name, missing in zip(names, (found.only_first, found.only_second), strict=True):
        if missing:
            listed = "; ".join(map(visible, missing[:MOST_NAMES])) + ("; …" if len(missing) > MOST_NAMES else "")
            out.print(Paragraph(f"Only in {name}, {_count(len(missing), 'item')}: {listed}"))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.3g}"


def _verdict(row: Row, names: tuple[str, str]) -> str:
    if row.within_noise:
        return "noise"
    return f"{names[1] if row.ratio > 1 else names[0]} faster"
