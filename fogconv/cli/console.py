"""Console: the tables and bars that people see. Results go to the file given, everything else to stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from fogconv.cli.job import Result
    from fogconv.report import LayerReport

stderr = Console(stderr=True)


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


def print_report(result: Result, *, alone: bool, out: TextIO) -> None:
    console = Console(file=out, highlight=False)
    for line in _head(result, alone):
        console.print(line)
    console.print(_star_table(result) if result.scheme == "star" else _resident_table(result))
    for line in _foot(result):
        console.print(line)


def print_stream(frames_per_s: float, frames: int, *, out: TextIO) -> None:
    Console(file=out, highlight=False).print(f"stream    {frames} frames, {frames_per_s:.2f} frames/s")


def _head(result: Result, alone: bool) -> Iterator[str]:
    yield f"[bold]{result.model}[/bold], weights: {result.weights}"
    where = "in this process" if result.cluster == "inproc" else f"over {result.cluster}"
    yield f"1 master + {_workers(result.workers)} {where}, scheme {result.scheme}"
    if alone:
        yield "mpirun started one rank (-n 1): the master runs alone"
    if result.scheme == "star" and result.job.threshold == 0:
        yield (
            "--threshold 0 forces every conv out, whether it pays or not, to show the engine at work; ranks that share one "
            "machine gain nothing by it"
        )
    for event in result.events:
        yield f"[yellow]{event}[/yellow]"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for index, name in enumerate(columns):
        if index == 0:
            table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=26, min_width=17)
        else:
            table.add_column(name, justify="right", no_wrap=True)
    return table


def _star_table(result: Result) -> Table:
    """Two lines a layer: name and prediction above, shape and measurement below. Times in ms."""
    table = _table("layer (ms: predicted, measured)", "S", "cut", "part", "tx", "edge", "rx", "join", "sum", "kB out", "in")
    for layer in result.layers:
        terms = ("part_s", "tx_s", "edge_s", "rx_s", "join_s", "total_s")
        table.add_row(
            f"{layer.name}\n[dim]{_shape(layer)}[/dim]",
            f"{_short(layer.bound_s_paper)}\n[dim]{_short(layer.bound_s_star)}[/dim]",
            layer.split if layer.distributed and layer.split else "local",
            *(f"{_ms(layer.predicted[term])}\n{_ms(layer.measured[term])}" for term in terms),
            f"{layer.bytes_tx / 1e3:.0f}",
            f"{layer.bytes_rx / 1e3:.0f}",
        )
    return table


def _resident_table(result: Result) -> Table:
    table = _table("layer (ms)", "cut", "predicted", "edge", "wait", "tx", "rx", "total", "kB sent")
    for layer in result.layers:
        table.add_row(
            f"{layer.name}\n[dim]{_shape(layer)}[/dim]",
            layer.split or "local",
            _ms(layer.predicted["total_s"]),
            *(_ms(layer.measured[term]) for term in ("edge_s", "wait_s", "tx_s", "rx_s", "total_s")),
            f"{layer.bytes_tx / 1e3:.0f}",
        )
    return table


def _foot(result: Result) -> Iterator[str]:
    out = sum(layer.distributed for layer in result.layers)
    sent, received = (sum(getattr(layer, name) for layer in result.layers) for name in ("bytes_tx", "bytes_rx"))
    yield (f"{out} of {len(result.layers)} convs distributed; {sent / 1e6:.2f} MB sent, {received / 1e6:.2f} MB received")
    for image, guesses in zip(result.job.images, result.top5, strict=True):
        yield f"[bold]{image}[/bold]"
        for guess in guesses:
            yield f"  {guess.probability:6.4f}  {guess.label} ({guess.index})"
    predicted = "" if result.predicted_s is None else f", predicted {result.predicted_s * 1e3:.1f} ms"
    yield f"latency   {result.latency_s * 1e3:.1f} ms (median of {result.job.repeat} warm runs{predicted})"
    if result.torch_latency_s is not None and result.max_abs_error is not None:
        yield (
            f"torch     {result.torch_latency_s * 1e3:.1f} ms on the master alone: "
            f"speedup {result.torch_latency_s / result.latency_s:.2f}"
        )
        yield f"error     {result.max_abs_error:.2e} at most, of values up to {result.max_abs_reference:.3g}"


def _shape(layer: LayerReport) -> str:
    return f"{layer.k[0]}×{layer.k[1]} {layer.c}→{layer.f} {layer.h}×{layer.w}"


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.2f}"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 1e4 else "≫"
