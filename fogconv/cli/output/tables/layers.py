"""The table of `fogconv run --layers`: two lines per layer, predicted above measured."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from fogconv.analysis.figures import byte_count, milliseconds, shape, short
from fogconv.analysis.layer_report import LayerReport, other_layers
from fogconv.cli.output.ellipsis import Name
from fogconv.cli.output.tables.table import figures_table
from fogconv.simulation.layer_times import STAR_TERMS, TERMS

STAR_LEGEND = (
    "Two lines per layer: predicted, measured; times in ms. part: the master cuts, tx: shards are sent, edge: the ranks "
    "compute, rx: results are returned, join: the master sums and joins. S: the most that distribution could gain by the "
    "paper's model, S* below it over links that send to one at a time. split: how the conv is cut and into how many shards; "
    "home: it stays on the master. out/in: bytes through the master's network card."
)
RESIDENT_LEGEND = (
    "Two lines per layer: predicted, measured; times in ms. edge: the slowest rank's computing, wait: the longest that a "
    "rank waited for data, tx and rx: the slowest rank's sending and receiving (they overlap), total: what the layer added "
    "to the inference. split: how the conv is cut and over how many ranks; home: it stays on one. bytes: sent, by all ranks."
)


def legend(scheme: str) -> str:
    return STAR_LEGEND if scheme == "star" else RESIDENT_LEGEND


def layer_table(layers: Sequence[LayerReport], scheme: str, predicted_s: float | None, latency_s: float) -> Table:
    """The convs, everything else, and the whole inference, which the summary gives as well."""
    star = scheme == "star"
    table = _star_table(layers) if star else _resident_table(layers)
    rest = other_layers(layers, predicted_s, latency_s)
    empty = ["", ""] if star else [""]
    for name, predicted, measured in (
        ("everything else", rest.predicted_s, rest.measured_s),
        ("the inference", predicted_s, latency_s),
    ):
        terms = [""] * (len(table.columns) - len(empty) - 3)
        total = f"{milliseconds(predicted)}\n{milliseconds(measured)}"
        table.add_row(name, *empty, "pred\nmeas", *terms, total, style="bold")
    return table


def _star_table(layers: Sequence[LayerReport]) -> Table:
    terms = [term.removesuffix("_s") for term in STAR_TERMS]
    table = figures_table("layer\nkernel c→f h×w", "S\nS*", "split\nout/in", "", *terms)
    for layer in layers:
        table.add_row(
            _named(layer),
            f"{short(layer.bound_s_paper)}\n{short(layer.bound_s_star)}",
            f"{_split(layer)}\n{_both_ways(layer)}",
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
            f"{_split(layer)}\n{byte_count(layer.bytes_tx)}",
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


def _named(layer: LayerReport) -> Name:
    return Name(layer.name, shape(layer.k, layer.c, layer.f, layer.h, layer.w))


def _split(layer: LayerReport) -> str:
    return layer.split if layer.distributed and layer.split else "home"


def _pair(layer: LayerReport, term: str) -> str:
    return f"{milliseconds(layer.predicted[term])}\n{milliseconds(layer.measured[term])}"


def _both_ways(*layers: LayerReport) -> str:
    sent, received = sum(layer.bytes_tx for layer in layers), sum(layer.bytes_rx for layer in layers)
    return f"{byte_count(sent)}/{byte_count(received)}" if sent or received else ""
