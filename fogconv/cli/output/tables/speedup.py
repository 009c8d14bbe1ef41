"""Rich tables of the speedup calculator, for 80 columns and for more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fogconv.cli.output.ellipsis import Name
from fogconv.cli.output.paragraph import Paragraph
from fogconv.hardware.presets import presets
from fogconv.hardware.units import show_bandwidth, show_rate, show_seconds
from fogconv.speedup.calculator import Media, Report, Row, SweepPoint, crowd_estimate, depth_that_pays

WIDE = 110
"""The least width at which the five terms of T_cld are shown for every layer."""

Swept = tuple[str, Sequence[SweepPoint]]


def show(
    model: str | None, report: Report, hardware: str, swept: Swept | None = None, console: Console | None = None
) -> None:
    """The whole answer: a layer with its terms, or a net with a line per shape; then the sweep."""
    out = console or Console()
    question = report.question
    alone = "only they compute" if question.workers > 1 else "the master does not compute"
    share = "the master computes too" if question.master_computes else alone
    medium = ", a broadcast medium" if question.media is Media.BROADCAST else ""
    out.print(Paragraph(f"{_workers(question.workers)}, {share}{medium}. {hardware}", style="dim"))
    if model is None:
        _layer(out, report.rows[0], report)
    else:
        _net(out, model, report)
    if swept is not None:
        _sweep(out, *swept, layers=len(report.rows))


def _workers(count: int) -> str:
    return f"{count} worker{'' if count == 1 else 's'}"


def _layer(out: Console, row: Row, report: Report) -> None:
    spec, decision, terms = row.spec, row.decision, row.terms
    title = f"{row.name}{f', {spec.groups} groups' if spec.groups > 1 else ''}: {spec.macs / 1e6:,.1f} million MACs"
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    broadcast = report.question.media is Media.BROADCAST
    shards = "1 shard" if len(decision.shards) == 1 else f"{len(decision.shards)} shards"
    if broadcast:
        shards = "equal shares of the channels"
    for name, seconds, what in (
        ("T_local", decision.local_s, "at home"),
        ("T_part", terms.part_s, "cutting the input"),
        ("n·T_tx", terms.tx_s, "sending it"),
        ("T_edge", terms.edge_s, f"computing, {shards}" + (f" ({decision.split})" if decision.split else "")),
        ("n·T_rx", terms.rx_s, "sending results back"),
        ("T_join", terms.join_s, "summing and joining"),
        ("T_cld", terms.total_s, "all of these"),
    ):
        table.add_row(name, show_seconds(seconds), what)
    if report.whole is not None:
        table.add_row("simulated", show_seconds(report.whole.all_s), "an inference of it: overlapping, with start and end")
    table.add_row("T_local/T_cld", f"{decision.estimate:.2f}", "the estimate")
    table.add_row("S", f"{decision.bound_s_paper:.2f}", "the paper's bound, any number of workers")
    if not broadcast:
        used = decision.split.parts - report.question.master_computes if decision.split else report.question.workers
        table.add_row("S*", f"{decision.bound_s_star:.2f}", f"the bound over unicast links, {_workers(used)}")
    table.add_row("at most", f"{decision.bound_gain:.2f}", f"what up to {_workers(report.question.workers)} can gain")
    if broadcast:
        table.add_row("limit", f"{crowd_estimate(spec, report.question):.2f}", "T_local/T_cld with a million workers")
    else:
        table.add_row("best n", str(row.best_n), "workers with the least T_cld")
    even = row.break_even_bytes_per_s
    table.add_row("break-even", show_bandwidth(even) if even else "never", "bandwidth from which it pays")
    if row.local_j:
        table.add_row("energy", f"{row.cloud_j:.3g} J", f"{row.local_j:.3g} J at home")
    out.print(table)
    out.print(_verdict(row.decision.distribute, row.decision.reason))
    kh, kw = spec.kernel
    if kh == kw and spec.groups == 1 and spec.height == spec.width:
        by_bound, by_estimate = depth_that_pays(report.question, kh, spec.height)
        out.print(
            f"Least depth (c = f, {kh}×{kh}, {spec.height}×{spec.height}) that pays: "
            f"{by_bound or 'none'} by S, {by_estimate or 'none'} by the estimate."
        )


def _net(out: Console, model: str, report: Report) -> None:
    wide = out.width >= WIDE
    table = Table(title=model, title_justify="left", box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("layer")
    for name in ("c", "f", "K", "h×w"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("S", justify="right", no_wrap=True)
    table.add_column("S*", justify="right", no_wrap=True)
    table.add_column("T_local", justify="right", no_wrap=True)
    if wide:
        for name in ("T_part", "n·T_tx", "T_edge", "n·T_rx", "T_join"):
            table.add_column(name, justify="right", no_wrap=True)
    table.add_column("T_cld", justify="right", no_wrap=True)
    table.add_column("ratio", justify="right", no_wrap=True)
    table.add_column("split", no_wrap=True)
    if wide:
        table.add_column("best n", justify="right", no_wrap=True)
    for row, count in _merged(report.rows):
        name, *cells = _cells(row, count, wide)
        table.add_row(Name(name), *cells, style="" if row.decision.distribute else "dim")
    out.print(table)
    total = report.total()
    threshold = report.question.threshold
    rule = (
        f"{report.question.trigger} > {threshold:g}"
        if report.question.trigger.kind != "channels"
        else str(report.question.trigger)
    )
    home_s, all_s, chosen_s = total["local_s"], total["all_distributed_s"], total["chosen_s"]
    counted = "By the formula, convolutions alone"
    if report.whole is not None:
        home_s, all_s, chosen_s = report.whole.home_s, report.whole.all_s, report.whole.chosen_s
        counted = "A whole inference, layers overlapping"
    out.print(
        Paragraph(
            f"{counted}: home {show_seconds(home_s)}. All layers out {show_seconds(all_s)} "
            f"({_ratio(home_s, all_s):.2f}×). By the rule ({rule}) {total['distributed']} of {total['layers']} layers out: "
            f"{show_seconds(chosen_s)} ({_ratio(home_s, chosen_s):.2f}×)."
        )
    )
    energy = total["energy_j"]
    if energy["local"]:
        text = f"Energy {energy['local']:.3g} J at home, {energy['chosen']:.3g} J by the rule (idle power not counted)."
        out.print(Paragraph(text))
    if _ratio(home_s, chosen_s) < 1.05:
        out.print(_verdict(False, "layer by layer from the master, this net gains next to nothing on this cluster"))


def _ratio(before_s: float, after_s: float) -> float:
    return before_s / after_s if after_s else 0.0


def _merged(rows: Sequence[Row]) -> list[tuple[Row, int]]:
    """Layers of one shape in one line, named after the first of them."""
    counts = Counter(row.spec for row in rows)
    first = {row.spec: row for row in reversed(rows)}
    return [(first[spec], count) for spec, count in counts.items()]


def _cells(row: Row, count: int, wide: bool) -> list[str]:
    spec, decision, terms = row.spec, row.decision, row.terms
    kh, kw = spec.kernel
    name = f"{row.name} ×{count}" if count > 1 else row.name
    cells = [
        name,
        str(spec.in_channels),
        str(spec.out_channels) + (f"/{spec.groups}" if spec.groups > 1 else ""),
        str(kh) if kh == kw else f"{kh}×{kw}",
        str(spec.out_height) if spec.out_height == spec.out_width else f"{spec.out_height}×{spec.out_width}",
        _short(decision.bound_s_paper),
        _short(decision.bound_s_star),
        _ms(decision.local_s),
    ]
    if wide:
        cells += [_ms(value) for value in (terms.part_s, terms.tx_s, terms.edge_s, terms.rx_s, terms.join_s)]
    cells += [_ms(terms.total_s), _short(decision.estimate), (str(decision.split or "yes")) if decision.distribute else "–"]
    return [*cells, str(row.best_n)] if wide else cells


def _sweep(out: Console, name: str, points: Sequence[SweepPoint], layers: int) -> None:
    show_value = {"bandwidth": show_bandwidth, "rate": show_rate, "latency": show_seconds}[name]
    table = Table(title=f"Over {name}", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in (name, "S", "S*", "estimate", *(("layers out",) if layers > 1 else ()), "speedup"):
        table.add_column(column, justify="right", no_wrap=True)
    for point in points:
        cells = [show_value(point.value), _short(point.bound_s_paper), _short(point.bound_s_star), _short(point.estimate)]
        if layers > 1:
            cells.append(f"{point.distributed} of {layers}")
        table.add_row(*cells, f"{point.speedup:.2f}×")
    out.print(table)
    if layers > 1:
        out.print(Text("S, S* and the estimate are the best layer's.", style="dim"))


def show_presets(console: Console | None = None) -> None:
    """Every preset with its figures and their sources; estimates are marked."""
    out = console or Console()
    for name, preset in presets().items():
        out.print(Text.assemble((name, "bold"), f"  {preset.title}"))
        gamma = ", ".join(f"{kind} {value:.3g}" for kind, value in preset.gamma_s_per_mac.items())
        rate = show_rate(2 / preset.gamma_s_per_mac["default"])
        power = f"{preset.watts:g} W, {preset.idle_watts:g} idle"
        out.print(f"  γ {gamma} s per MAC ({rate}); {show_bandwidth(preset.bandwidth_bytes_per_s)}; {power}")
        for what, source in preset.sources.items():
            out.print(Text(f"  {what}: {source}", style="dim"))
        out.print(Text(f"  estimates: {', '.join(preset.estimates)}", style="dim"))


def sweep_json(swept: Swept | None) -> dict[str, Any]:
    """{"sweep": {"over", "points": […]}}, or nothing."""
    if swept is None:
        return {}
    return {"sweep": {"over": swept[0], "points": [asdict(point) for point in swept[1]]}}


def _verdict(pays: bool, why: str) -> Text:
    return Text.assemble(("It pays" if pays else "It does not pay", "bold green" if pays else "bold red"), f": {why}.")


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def _ms(seconds: float) -> str:
    """Milliseconds with three digits, without the unit, which is in the legend (µs and s are shown)."""
    if seconds == 0:
        return "0"
    return show_seconds(seconds).replace(" ms", "ms").replace(" µs", "µs").replace(" ns", "ns").replace(" s", "s")
