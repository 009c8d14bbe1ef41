"""``fogconv plan``: how a model would be distributed over a cluster, without running it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fogconv.cli.hardware_options import hardware
from fogconv.cli.process.exit_codes import sentences
from fogconv.errors import InputError

if TYPE_CHECKING:
    from fogconv.analysis.forecast import Forecast
    from fogconv.hardware.topology import Topology
    from fogconv.ir.graph import LayerGraph
    from fogconv.ir.plan import Plan

_DEVICES, _PATHS, _OUTPUT = "The devices and links", "The paths", "Output"


def plan(
    model: Annotated[str, typer.Argument(help="A torchvision model's name, efficientnet_lite0, or a .pt2 file.")],
    cluster: Annotated[
        str,
        typer.Option(help="tcp://HOST:PORT,… or a hostfile: its devices and links are measured.", rich_help_panel=_DEVICES),
    ] = "",
    keys: Annotated[
        Path | None, typer.Option(help="Folder with this device's keys (of `fogconv keygen`).", rich_help_panel=_DEVICES)
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Go without encryption and keys on a network.", rich_help_panel=_DEVICES)
    ] = False,
    profile: Annotated[
        Path | None, typer.Option(help="What `fogconv calibrate` measured.", rich_help_panel=_DEVICES)
    ] = None,
    ranks: Annotated[
        int | None, typer.Option(help="The master and its workers; 5, or the profile's.", min=1, rich_help_panel=_DEVICES)
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Boards: pi3, pi4, pi5, jetson-nano, mini-pc.", rich_help_panel=_DEVICES)
    ] = None,
    rate: Annotated[str | None, typer.Option(help="Each device's, 10GFLOP/s.", rich_help_panel=_DEVICES)] = None,
    bandwidth: Annotated[str | None, typer.Option(help="Each link's, 100Mbit/s.", rich_help_panel=_DEVICES)] = None,
    latency: Annotated[str | None, typer.Option(help="Per message, 0.5ms.", rich_help_panel=_DEVICES)] = None,
    scheme: Annotated[
        str, typer.Option(help="auto, star (the paper's), depth, rows or local.", rich_help_panel=_PATHS)
    ] = "",
    trigger: Annotated[str, typer.Option(help="Star: both, bound, estimate or channels:N.", rich_help_panel=_PATHS)] = "",
    threshold: Annotated[
        float | None, typer.Option(help="Star: 0 distributes every conv, inf none.", rich_help_panel=_PATHS)
    ] = None,
    master_computes: Annotated[str, typer.Option(help="Star: on, or off as in the paper.", rich_help_panel=_PATHS)] = "on",
    wire: Annotated[
        str, typer.Option(help="fp32, fp16, bf16, lossless, zeros, lz4, zstd.", rich_help_panel=_PATHS)
    ] = "fp32",
    size: Annotated[int | None, typer.Option(help="Input size in pixels.", rich_help_panel=_PATHS)] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Let a .pt2 run code when it is loaded.", rich_help_panel=_PATHS)
    ] = False,
    batch: Annotated[int, typer.Option(help="Images at once.", min=1, rich_help_panel=_PATHS)] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Keep the plan for `fogconv-run --plan`.", rich_help_panel=_OUTPUT)
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="A timeline: FILE.png, .svg or .pdf.", rich_help_panel=_OUTPUT)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.", rich_help_panel=_OUTPUT)] = False,
) -> None:
    """Show the cheapest path of layouts through a model: the split per layer, the time, bytes per network card, memory."""
    with sentences("fogconv plan"):
        from fogconv.analysis.forecast import forecast
        from fogconv.analysis.timeline import check_suffix, draw
        from fogconv.planning.plan_options import WIRES, wire_of
        from fogconv.planning.search import plan as make_plan

        if wire not in WIRES:
            raise InputError(f"--wire {wire!r}: it is one of {', '.join(WIRES)}")
        if master_computes not in ("on", "off"):
            raise InputError(f"--master-computes {master_computes!r}: it is on or off")
        for option, path in (("--out", out), ("--plot", plot)):
            if path is not None and not path.parent.is_dir():
                raise InputError(f"{option} {path}: there is no folder {path.parent}")
        if plot is not None:
            check_suffix(plot)
        figures = (profile, ranks, preset, rate, bandwidth, latency)
        if not cluster:
            topology, described = _described(*figures)
        elif any(figure is not None for figure in figures):
            raise InputError(
                "--cluster is measured; leave --profile, --preset, --ranks, --rate, --bandwidth and --latency out"
            )
        else:
            topology, described = _measured(cluster, keys, insecure)
        graph = _graph(model, size, batch, trust)
        chosen = scheme or ("star" if trigger or threshold is not None else "auto")
        found = make_plan(
            graph,
            topology,
            scheme=chosen,
            wire=wire_of(wire, graph, topology, chosen),
            trigger=trigger or "both",
            threshold=1.0 if threshold is None else threshold,
            master_computes=master_computes == "on",
        )
        told = forecast(graph, found, topology)
        if out is not None:
            _save(found, out)
        if plot is not None:
            draw(plot, graph, found, topology)
        if as_json:
            import msgspec

            print(msgspec.json.encode(told.as_json()).decode())
        else:
            _show(told, described)
        for path in (out, plot):
            if path is not None:
                print(f"wrote {path}", file=sys.stderr)


def _described(
    profile: Path | None,
    ranks: int | None,
    preset: str | None,
    rate: str | None,
    bandwidth: str | None,
    latency: str | None,
) -> tuple[Topology, str]:
    if ranks == 1:
        raise InputError("--ranks 1 is the master alone, and there is nothing to plan; give 2 or more")
    workers = None if ranks is None else ranks - 1
    found = hardware(preset=preset, profile=profile, rate=rate, bandwidth=bandwidth, latency=latency, workers=workers)
    return found.topology, found.description


def _measured(cluster: str, keys: Path | None, insecure: bool) -> tuple[Topology, str]:
    from fogconv.calibration.devices import calibrate_quickly
    from fogconv.cluster.connect import connect

    with connect(cluster, keys=keys, insecure=insecure) as session:
        return calibrate_quickly(session), f"measured: {cluster}"


def _graph(model: str, size: int | None, batch: int, trust: bool) -> LayerGraph:
    from fogconv.frontend.torch.export import export
    from fogconv.zoo.models import load_model

    # A plan depends on shapes only: no weights are fetched.
    known = load_model(model, weights="pretrained" if model.endswith(".pt2") else "random", size=size, trust=trust)
    return export(known.module, known.example(batch), known.name)


def _save(plan: Plan, path: Path) -> None:
    from fogconv.ir.plan import save_plan

    try:
        save_plan(plan, path)
    except OSError as error:
        raise InputError(f"--out {path}: can't be written: {error.strerror or error}") from error


def _show(told: Forecast, described: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.text import Text

    from fogconv.cli.output.console import byte_count, figures_table, milliseconds

    console = Console(highlight=False)
    console.print(
        f"[bold]{escape(told.plan.graph)}[/bold] on {told.plan.ranks} ranks, scheme {told.plan.scheme}. {escape(described)}"
    )
    legend = (
        "Predicted times in ms. move: bringing the layer's inputs to where they are needed, edge: the slowest rank's "
        "computing, sum: bringing partial results together, total: all three. split: how the layer is cut and over how "
        "many ranks; home: the master does it."
    )
    console.print(Text(legend, style="dim"))
    table = figures_table("layer", "c→f or c, h×w", "split", "move", "edge", "sum", "total")
    for layer in told.layers:
        if layer.mode == "relabel":
            continue
        terms = layer.predicted
        moved = terms.get("part_s", 0.0) + terms.get("tx_s", 0.0)
        summed = terms.get("rx_s", 0.0) + terms.get("join_s", 0.0)
        cells = (moved, terms.get("edge_s"), summed, terms.get("total_s"))
        split = layer.split or ("torch" if layer.mode == "host" else "home")
        table.add_row(escape(layer.name), layer.shape, split, *(milliseconds(cell) for cell in cells))
    console.print(table)
    cards = figures_table("rank", "sent", "received", "weights", "maps")
    for rank in told.ranks:
        figures = (rank.sent_bytes, rank.received_bytes, rank.weight_bytes, rank.map_bytes)
        cards.add_row(f"{rank.rank}: {escape(rank.device)}", *(f"{byte_count(figure)}B" for figure in figures))
    console.print("\nBytes per inference through each network card, and memory on each rank", style="bold")
    console.print(cards)
    predicted = "unknown" if told.plan.predicted_s is None else f"{told.plan.predicted_s * 1e3:.1f} ms"
    console.print(
        f"predicted {predicted} an inference; the busiest card takes {byte_count(told.busiest_card_bytes)}B one way"
    )


if __name__ == "__main__":
    typer.run(plan)
