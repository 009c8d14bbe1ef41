"""The output of `fogconv plan`: the layers, then each rank's traffic and memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from fogconv.analysis.figures import byte_count, milliseconds
from fogconv.analysis.forecast import Forecast, LayerForecast
from fogconv.choice.noise import Rival
from fogconv.cli.output.ellipsis import Name
from fogconv.cli.output.paragraph import Paragraph
from fogconv.cli.output.tables.table import figures_table
from fogconv.hardware.units import show_seconds
from fogconv.ir.layers import Hosted

LEGEND = (
    "Predicted times in ms. move: bringing the layer's inputs to where they are needed, edge: the slowest rank's "
    "computing, sum: bringing partial results together, total: all three, and in the last row the whole inference. split: "
    "how the layer is cut and over how many ranks; home: the master does it; host: torch or ONNX Runtime does it there."
)

TILES_LEGEND = " tiles:2x3: two bands of three tiles each; tiles:2+3: a band of two above one of three."
WHOLE_LEGEND = " rank:2: rank 2 does it alone."
PIN_LEGEND = " pinned: --pin or --keep-input-home says where."
SWAP_LEGEND = " +disk: weights of it are read from the ranks' disks in each inference, which edge includes."


def print_plan(
    forecast: Forecast, described: str, rivals: Sequence[Rival] = (), *, out: TextIO, width: int | None = None
) -> None:
    """``described``: a sentence about the devices and links. ``rivals``: other schemes' plans, the fastest first. ``width``
    in columns; None: the terminal's."""
    plan = forecast.plan
    console = Console(file=out, highlight=False, width=width)
    console.print(Paragraph(f"{plan.graph} on {plan.ranks} ranks, scheme {plan.scheme}. {described}"))
    whole = any(layer.mode == "offload" for layer in forecast.layers)
    tiled = any(layer.mode == "tiles" for layer in forecast.layers)
    pins = any(layer.pinned for layer in forecast.layers)
    notes = TILES_LEGEND * tiled + WHOLE_LEGEND * whole + PIN_LEGEND * pins + SWAP_LEGEND * bool(plan.swaps)
    console.print(Paragraph(LEGEND + notes, style="dim"))
    console.print(_layers(forecast))
    console.print("\nBytes per inference through each network card, and memory on each rank", style="bold")
    console.print(_ranks(forecast))
    predicted = "unknown" if plan.predicted_s is None else f"{plan.predicted_s * 1e3:.1f} ms"
    if plan.predicted_j is not None:
        predicted += f" and {plan.predicted_j:.3g} J"
    busiest = byte_count(forecast.busiest_card_bytes)
    console.print(Paragraph(f"predicted {predicted} per inference; the busiest card takes {busiest}B one way"))
    for line in _streamed(forecast):
        console.print(Paragraph(line))
    for line in _hosted(forecast):
        console.print(Paragraph(line))
    for line in _rivals(rivals):
        console.print(Paragraph(line))


MOST_LANES = 12


def _streamed(forecast: Forecast) -> Iterator[str]:
    """A stream's frames per second, and who takes them."""
    if not forecast.lanes:
        return
    yield f"predicted {forecast.plan.frames_per_s or 0.0:.3g} frames per second of a stream; at once in flight, and where:"
    for lane in forecast.lanes[:MOST_LANES]:
        yield f"  {lane.in_flight}: {lane.text}"
    if len(forecast.lanes) > MOST_LANES:
        yield f"  and {len(forecast.lanes) - MOST_LANES} more"


MOST_NAMED = 4
"""Nodes of one operator that are named."""


def _hosted(forecast: Forecast) -> Iterator[str]:
    """What stays on the master: a line for each operator and reason, those with the most multiply-adds first."""
    if not forecast.hosted:
        return
    share = 100 * forecast.on_master_share
    yield f"on the master, because workers can't do it ({share:.3g} % of the multiply-adds):"
    groups: dict[tuple[str, str], list[Hosted]] = {}
    for each in forecast.hosted:
        groups.setdefault((each.operator, each.why), []).append(each)
    for (operator, why), members in sorted(groups.items(), key=lambda item: -sum(each.macs for each in item[1])):
        named = list(dict.fromkeys(each.node for each in members))
        shown = ", ".join(named[:MOST_NAMED]) + (f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else "")
        macs = sum(each.macs for each in members)
        yield f"  {operator} ({shown}): {why}" + (f"; {macs / 1e6:.3g} M multiply-adds" if macs else "")


def _rivals(rivals: Sequence[Rival]) -> Iterator[str]:
    within, beyond = ([rival for rival in rivals if rival.within is wanted] for wanted in (True, False))
    same = [f"{rival.scheme} (the same plan)" if rival.same else _time(rival) for rival in within]
    if same:
        yield f"within the noise of: {', '.join(same)}"
    elif any(rival.noise_s is not None for rival in rivals):
        yield "within the noise of no other scheme"
    if beyond:
        yield f"other schemes: {', '.join(map(_time, beyond))}"


def _time(rival: Rival) -> str:
    return f"{rival.scheme} {show_seconds(rival.predicted_s)}"


def rivals_json(rivals: Sequence[Rival]) -> dict[str, Any]:
    """``known``: whether the spreads of the rates are known."""
    return {
        "known": any(rival.noise_s is not None for rival in rivals),
        "within": [rival.scheme for rival in rivals if rival.within],
        "schemes": {
            rival.scheme: {"predicted_s": rival.predicted_s, "noise_s": rival.noise_s, "same_plan": rival.same}
            for rival in rivals
        },
    }


def _layers(forecast: Forecast) -> Table:
    table = figures_table("layer", "c→f or c, h×w", "split", "move", "edge", "sum", "total")
    for layer in forecast.layers:
        if layer.mode == "relabel":
            continue
        split = layer.split or ("host" if layer.mode == "host" else "home")
        split += " pinned" if layer.pinned else ""
        split += " +disk" if layer.read_bytes else ""
        table.add_row(Name(layer.name), layer.shape, split, *_cells(layer))
    if forecast.plan.ends_s:
        table.add_row("start and end", "", "", "", "", "", milliseconds(forecast.plan.ends_s))
    table.add_row("all", "", "", *_cells(forecast.total), style="bold")
    return table


def _cells(layer: LayerForecast) -> tuple[str, ...]:
    terms = (layer.move_s, layer.predicted.get("edge_s"), layer.sum_s, layer.predicted.get("total_s"))
    return tuple(milliseconds(term) for term in terms)


def _ranks(forecast: Forecast) -> Table:
    swaps = any(rank.read_bytes for rank in forecast.ranks)
    table = figures_table("rank", "sent", "received", "weights", "maps", *(("from disk",) if swaps else ()))
    for rank in forecast.ranks:
        figures: tuple[int, ...] = (rank.sent_bytes, rank.received_bytes, rank.weight_bytes, rank.map_bytes)
        figures += (rank.read_bytes,) if swaps else ()
        table.add_row(Name(rank.name), *(f"{byte_count(figure)}B" for figure in figures))
    return table
