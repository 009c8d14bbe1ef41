"""The plan table: a forecast as text; every line fits the width."""

from __future__ import annotations

from collections.abc import Sequence

from fogconv.analysis.figures import byte_count, cut, milliseconds
from fogconv.analysis.forecast import Forecast, LayerForecast

MOST_NAME = 26
"""Characters of a layer's name; a longer one is cut in the middle."""


def plan_table(forecast: Forecast, width: int = 80) -> str:
    """A line per layer (predicted milliseconds: moving inputs, computing, summing), then a line per rank."""
    plan = forecast.plan
    seconds = "not predicted" if plan.predicted_s is None else f"{plan.predicted_s * 1e3:.1f} ms per inference"
    layers = [_layer_row(layer) for layer in forecast.layers if layer.mode != "relabel"]
    if plan.ends_s:
        layers.append(("start and end", "", "", "", "", "", milliseconds(plan.ends_s)))
    layers.append(("all", "", "", *_terms(forecast.total)))
    ranks = [
        (
            rank.name,
            *(f"{byte_count(n)}B" for n in (rank.sent_bytes, rank.received_bytes, rank.weight_bytes, rank.map_bytes)),
            *((f"{byte_count(rank.read_bytes)}B",) if plan.swaps else ()),
        )
        for rank in forecast.ranks
    ]
    lines = [
        f"{plan.graph} on {plan.ranks} ranks, scheme {plan.scheme}, {plan.wire} on the wire",
        f"predicted: {seconds}; per layer in milliseconds",
        "",
        *_table(("layer", "shape", "split", "move", "compute", "sum", "total"), layers, text=3, width=width),
        "",
        *_table(
            ("rank", "sent", "received", "weights", "maps", *(("from disk",) if plan.swaps else ())),
            ranks,
            text=1,
            width=width,
        ),
    ]
    return "\n".join(cut(line, width) for line in lines)


def _layer_row(layer: LayerForecast) -> tuple[str, ...]:
    split = layer.split or ("host" if layer.mode == "host" else "master")
    split += (" pinned" if layer.pinned else "") + (" +disk" if layer.read_bytes else "")
    return layer.name, layer.shape, split, *_terms(layer)


def _terms(layer: LayerForecast) -> tuple[str, ...]:
    seconds = (layer.move_s, layer.predicted.get("edge_s", 0.0), layer.sum_s, layer.predicted.get("total_s", 0.0))
    return tuple(milliseconds(each) or "–" for each in seconds)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, text: int, width: int) -> list[str]:
    """Columns two spaces apart: the first ``text`` ones to the left, figures to the right; the first gives way."""
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    spare = width - sum(widths[1:]) - 2 * (len(heads) - 1)
    widths[0] = max(8, min(widths[0], MOST_NAME, spare))
    return [
        "  ".join(
            cut(cell, w).ljust(w) if i < text else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (heads, *rows)
    ]
