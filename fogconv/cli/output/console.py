"""Console: the tables and bars that people see. Results go to the file given, everything else to stderr.

Nothing but the layer's name ever folds: at 80 columns as at 200 every figure is whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from fogconv.analysis.layer_report import STAR_TERMS, TERMS

if TYPE_CHECKING:
    from fogconv.analysis.layer_report import LayerReport
    from fogconv.cli.output.result import Result

stderr = Console(stderr=True)

STAR_LEGEND = (
    "Two lines a layer: predicted, measured; times in ms. part: the master cuts, tx: shards travel out, edge: the ranks "
    "compute, rx: results travel back, join: the master sums and joins. S: the most that distributing could gain by the "
    "paper's model, S* below it over links that send to one at a time. split: how the conv is cut and into how many shards; "
    "home: it stays on the master. out/in: bytes through the master's network card."
)
RESIDENT_LEGEND = (
    "Two lines a layer: predicted, measured; times in ms. edge: the slowest rank's computing, wait: the longest that a rank "
    "waited for data, tx and rx: the slowest rank's sending and taking in (they overlap), total: what the layer added to "
    "the inference. split: how the conv is cut and over how many ranks; home: it stays on one. bytes: sent, by all ranks."
)


@contextmanager
def loading_bar(quiet: bool) -> Iterator[Callable[[Any], None]]:
    """A bar while weights ship and kernels compile; takes Session's Progress."""
    if quiet or not stderr.is_terminal:
        yield lambda progress: None
        return
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn(),
        console=stderr, transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("planning", total=None, note="")

        def show(progress: Any) -> None:
            bar.update(
                task,
                description="shipping weights, compiling kernels",
                total=max(1, progress.total_bytes),
                completed=progress.shipped_bytes,
                note=f"{progress.shipped_bytes / 1e6:.1f} MB, {progress.ready}/{progress.workers} workers ready",
            )

        yield show


def print_report(result: Result, *, alone: bool, out: TextIO, width: int | None = None) -> None:
    """``width`` in columns; None: the terminal's, 80 where there is none."""
    console = Console(file=out, highlight=False, width=width)
    for line in _head(result, alone):
        console.print(line)
    star = result.scheme == "star"
    console.print(Text(STAR_LEGEND if star else RESIDENT_LEGEND, style="dim"))
    console.print(_star_table(result.layers) if star else _resident_table(result.layers))
    for line in _foot(result):
        console.print(line)


def print_stream(frames_per_s: float, frames: int, *, out: TextIO) -> None:
    Console(file=out, highlight=False).print(f"stream    {frames} frames, {frames_per_s:.2f} frames/s")


def _head(result: Result, alone: bool) -> Iterator[str]:
    yield f"[bold]{escape(result.model)}[/bold], weights: {escape(result.weights)}"
    where = "in this process" if result.cluster == "inproc" else f"over {escape(result.cluster)}"
    yield f"1 master + {_workers(result.workers)} {where}, scheme {result.scheme}"
    if alone:
        yield "mpirun started one rank (-n 1): the master runs alone"
    if result.scheme == "star" and result.job.threshold == 0:
        yield (
            "--threshold 0 forces every conv out, whether it pays or not, to show the engine at work; ranks that share one "
            "machine gain nothing by it"
        )
    for event in result.events:
        yield f"[yellow]{escape(str(event))}[/yellow]"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def figures_table(first: str, *others: str) -> Table:
    """A borderless table: a first column that folds, and right-aligned ones that never do."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column(first, overflow="fold", min_width=19)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _star_table(layers: Sequence[LayerReport]) -> Table:
    terms = [term.removesuffix("_s") for term in STAR_TERMS]
    table = figures_table("layer\nkernel c→f h×w", "S\nS*", "split\nout/in", "", *terms)
    for layer in layers:
        table.add_row(
            _named(layer),
            f"{short(layer.bound_s_paper)}\n{short(layer.bound_s_star)}",
            f"{layer.split if layer.distributed and layer.split else 'home'}\n{_both_ways(layer)}",
            "pred\nmeas",
            *(_pair(layer, term) for term in STAR_TERMS),
        )
    _total(table, layers, STAR_TERMS, "", f"\n{_both_ways(*layers)}")
    return table


def _resident_table(layers: Sequence[LayerReport]) -> Table:
    terms = [term.removesuffix("_s") for term in TERMS]
    table = figures_table("layer\nkernel c→f h×w", "split\nbytes", "", *terms)
    for layer in layers:
        table.add_row(
            _named(layer),
            f"{layer.split if layer.distributed and layer.split else 'home'}\n{byte_count(layer.bytes_tx)}",
            "pred\nmeas",
            *(_pair(layer, term) for term in TERMS),
        )
    _total(table, layers, TERMS, f"\n{byte_count(sum(layer.bytes_tx for layer in layers))}")
    return table


def _total(table: Table, layers: Sequence[LayerReport], terms: Sequence[str], *middle: str) -> None:
    cells = []
    for term in terms:
        predicted, measured = (
            sum(of[term] or 0.0 for of in figures)
            for figures in ([layer.predicted for layer in layers], [layer.measured for layer in layers])
        )
        cells.append(f"{milliseconds(predicted)}\n{milliseconds(measured)}")
    table.add_row(f"all {len(layers)} convs", *middle, "pred\nmeas", *cells, style="bold")


def _named(layer: LayerReport) -> str:
    return f"{escape(layer.name)}\n[dim]{shape(layer.k, layer.c, layer.f, layer.h, layer.w)}[/dim]"


def _pair(layer: LayerReport, term: str) -> str:
    return f"{milliseconds(layer.predicted[term])}\n{milliseconds(layer.measured[term])}"


def _both_ways(*layers: LayerReport) -> str:
    sent, received = sum(layer.bytes_tx for layer in layers), sum(layer.bytes_rx for layer in layers)
    return f"{byte_count(sent)}/{byte_count(received)}" if sent or received else ""


def _foot(result: Result) -> Iterator[str]:
    out = sum(layer.distributed for layer in result.layers)
    sent, received = (sum(getattr(layer, name) for layer in result.layers) for name in ("bytes_tx", "bytes_rx"))
    yield (f"{out} of {len(result.layers)} convs distributed; {sent / 1e6:.2f} MB sent, {received / 1e6:.2f} MB received")
    for image, guesses in zip(result.job.images, result.top5, strict=True):
        yield f"[bold]{escape(image)}[/bold]"
        for guess in guesses:
            yield f"  {guess.probability:6.4f}  {escape(guess.label)} ({guess.index})"
    predicted = "" if result.predicted_s is None else f", predicted {result.predicted_s * 1e3:.1f} ms"
    yield f"latency   {result.latency_s * 1e3:.1f} ms (median of {result.job.repeat} warm runs{predicted})"
    if result.torch_latency_s is not None and result.max_abs_error is not None:
        yield (
            f"torch     {result.torch_latency_s * 1e3:.1f} ms on the master alone: "
            f"speedup {result.torch_latency_s / result.latency_s:.2f}"
        )
        yield f"error     {result.max_abs_error:.2e} at most, of values up to {result.max_abs_reference:.3g}"


def shape(kernel: tuple[int, int], c: int, f: int, h: int, w: int) -> str:
    """ "3×3 64→128 56×56": kernel, input and output channels, output size."""
    return f"{kernel[0]}×{kernel[1]} {c}→{f} {h}×{w}"


def milliseconds(seconds: float | None) -> str:
    """Three digits in ms, five characters at most; nothing for nothing."""
    if not seconds:
        return ""
    value = seconds * 1e3
    if value < 9.995:
        return f"{value:.2f}"
    if value < 99.95:
        return f"{value:.1f}"
    return f"{value:.0f}" if value < 99999.5 else f"{value / 1e3:.0f}s"


def byte_count(count: float) -> str:
    """ "982", "401k", "12.8M"; powers of 1000, five characters at most."""
    for limit, scale, unit in ((1e3, 1, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M")):
        if count < limit * 0.9995:
            value = count / scale
            return f"{value:.1f}{unit}" if unit == "M" and value < 99.95 else f"{value:.0f}{unit}"
    return f"{count / 1e9:.1f}G"


def short(value: float | None) -> str:
    """Three digits, five characters at most."""
    if value is None:
        return ""
    if not math.isfinite(value) or value >= 99999.5:
        return "≫"
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
