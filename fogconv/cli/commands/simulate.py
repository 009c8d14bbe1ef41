"""``fogconv simulate``: run a net's programs on devices and links that are not there."""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fogconv.cli.hardware_options import (
    BandwidthOption,
    LatencyOption,
    PresetOption,
    ProfileOption,
    RateOption,
    hardware,
)
from fogconv.cli.panels import HOW, OUTPUT, TROUBLE, WHERE
from fogconv.cli.plan_options import (
    MASTER_COMPUTES,
    WIRE,
    EvenOption,
    MasterComputesOption,
    PartsOption,
    PlanOption,
    SchemeOption,
    SplitOption,
    ThresholdOption,
    TriggerOption,
    WireOption,
    plan_options,
)
from fogconv.cli.process.exit_codes import sentences
from fogconv.errors import InputError
from fogconv.hardware.units import bandwidth_bytes_per_s

if TYPE_CHECKING:
    from fogconv.analysis.simulation.simulator import Timeline
    from fogconv.hardware.topology import Topology
    from fogconv.ir.graph import LayerGraph


def simulate(
    model: Annotated[str, typer.Argument(help="The name of a net, such as vgg16, or a .pt2 file.")],
    scheme: SchemeOption = None,
    trigger: TriggerOption = None,
    threshold: ThresholdOption = None,
    master_computes: MasterComputesOption = MASTER_COMPUTES,
    even: EvenOption = False,
    parts: PartsOption = None,
    split: SplitOption = None,
    wire: WireOption = WIRE,
    plan: PlanOption = None,
    size: Annotated[
        int | None, typer.Option(help="Image size in pixels; by default the net's usual one.", rich_help_panel=HOW)
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", "-n", help="Number of workers; by default 4, or as many as the profile has.", rich_help_panel=WHERE
        ),
    ] = None,
    preset: PresetOption = None,
    profile: ProfileOption = None,
    rate: RateOption = None,
    bandwidth: BandwidthOption = None,
    latency: LatencyOption = None,
    speeds: Annotated[
        str,
        typer.Option(
            help="Speed factors of the ranks from 0 on, such as 1,1,0.5; the last one holds for the rest.",
            rich_help_panel=WHERE,
        ),
    ] = "",
    access_points: Annotated[
        int, typer.Option(help="Number of access points that the workers share; 0: cables.", rich_help_panel=WHERE)
    ] = 0,
    access_point_bandwidth: Annotated[
        str, typer.Option(help="Bandwidth of each access point.", rich_help_panel=WHERE)
    ] = "200Mbit/s",
    straggler: Annotated[
        list[str] | None,
        typer.Option(
            help="Slow a rank down without the plan's knowledge: 3x4 makes rank 3 take 4 times as long.",
            rich_help_panel=TROUBLE,
        ),
    ] = None,
    jitter: Annotated[
        float, typer.Option(help="Spread of compute times as a fraction; 0.1 is about 10 %.", rich_help_panel=TROUBLE)
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the jitter's random numbers.", rich_help_panel=TROUBLE)] = 0,
    inferences: Annotated[int, typer.Option(help="Number of inferences in all.", rich_help_panel=OUTPUT)] = 1,
    in_flight: Annotated[int, typer.Option(help="Number of inferences in flight at once.", rich_help_panel=OUTPUT)] = 1,
    trace: Annotated[Path | None, typer.Option(help="Write a timeline that Perfetto opens.", rich_help_panel=OUTPUT)] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Run the very programs that a cluster would get, event by event: up to 1,024 workers, shared media, stragglers."""
    with sentences("fogconv simulate"):
        from fogconv.analysis.simulation import simulator as simulation
        from fogconv.analysis.trace import write_trace
        from fogconv.lowering.lower import lower
        from fogconv.planning.planner import plan as make_plan

        options = plan_options(
            scheme,
            trigger,
            threshold,
            master_computes,
            wire,
            even=even,
            parts=parts,
            split=split,
            plan=plan,
        )
        if jitter < 0:
            raise InputError(f"--jitter {jitter}: it must not be negative")
        cluster = hardware(preset=preset, profile=profile, rate=rate, bandwidth=bandwidth, latency=latency, workers=workers)
        topology = _uneven(cluster.topology, speeds)
        slow = dict(_straggler(text, len(topology)) for text in straggler or [])
        options.check_ranks(len(topology))
        graph = _graph(model, size)
        chosen = options.plan or make_plan(graph, topology, options)
        if chosen.ranks > len(topology):
            raise InputError(f"{plan} is for {chosen.ranks} ranks; --workers {chosen.ranks - 1} or more")
        timeline = simulation.simulate(
            lower(graph, chosen).programs,
            topology,
            inferences=inferences,
            in_flight=in_flight,
            disturbance=simulation.Disturbance(slow, jitter=jitter, seed=seed),
            access_points=_points(access_points, topology),
            access_point_bytes_per_s=bandwidth_bytes_per_s(access_point_bandwidth),
            keep_events=trace is not None,
        )
        if trace is not None:
            write_trace(trace, timeline.events, {rank: device.name for rank, device in enumerate(topology.devices)})
        answer = _answer(model, chosen.scheme, timeline, topology, chosen.predicted_s, graph)
        if as_json:
            print(json.dumps(answer, allow_nan=False))
        else:
            _show(answer, timeline, cluster.description)
        if trace is not None:
            print(f"wrote {trace}", file=sys.stderr)


def _graph(model: str, size: int | None) -> LayerGraph:
    try:
        from fogconv.frontend.torch.export import export
        from fogconv.zoo.models import load_model
    except ImportError as error:
        from fogconv.cli.process.exit_codes import needs

        raise needs("torch", "master") from error
    found = load_model(model, weights="random", size=size)
    return export(found.module, found.example(), found.name)


def _uneven(topology: Topology, speeds: str) -> Topology:
    if not speeds:
        return topology
    try:
        factors = [float(text) for text in speeds.split(",")]
    except ValueError:
        raise InputError(f"--speeds {speeds!r}: write numbers with commas, such as 1,1,0.5") from None
    for rank in topology.ranks:
        topology = topology.replace_device(rank, topology.devices[rank].scaled(factors[min(rank, len(factors) - 1)]))
    return topology


def _straggler(text: str, ranks: int) -> tuple[int, float]:
    match = re.fullmatch(r"(\d+)x(\d+(?:\.\d+)?)", text)
    if match is None or int(match[1]) >= ranks or float(match[2]) <= 0:
        raise InputError(f"--straggler {text!r}: write RANKxFACTOR, such as 3x4, with a rank from 0 to {ranks - 1}")
    return int(match[1]), float(match[2])


def _points(count: int, topology: Topology) -> dict[int, int]:
    if count < 0:
        raise InputError(f"--access-points {count}: it must not be negative")
    return {rank: rank % count for rank in topology.workers} if count else {}


def _answer(
    model: str, scheme: str, timeline: Timeline, topology: Topology, predicted_s: float | None, graph: LayerGraph
) -> dict[str, Any]:
    from fogconv.ir.graph import Conv

    alone = sum(topology.devices[0].conv_s(layer.spec) for layer in graph.layers if isinstance(layer, Conv))
    latency = statistics.median(timeline.latencies_s)
    return {
        "model": model,
        "scheme": scheme,
        "workers": len(topology.workers),
        "latency_s": latency,
        "latencies_s": list(timeline.latencies_s),
        "inferences_per_s": len(timeline.latencies_s) / timeline.total_s if timeline.total_s else 0.0,
        "predicted_s": predicted_s,
        "convs_alone_s": alone,
        "speedup": alone / latency if latency else 0.0,
        "bytes_busiest_card": max(max(pair) for pair in timeline.card_bytes),
        "busy": [busy / timeline.total_s if timeline.total_s else 0.0 for busy in timeline.busy_s],
    }


def _show(answer: dict[str, Any], timeline: Timeline, hardware_text: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from fogconv.hardware.units import show_seconds

    console = Console()
    console.print(Text(hardware_text, style="dim"))
    console.print(
        f"{escape(answer['model'])}, {answer['scheme']}, {answer['workers']} workers: {show_seconds(answer['latency_s'])} "
        f"({answer['speedup']:.2f}× the master alone, {show_seconds(answer['convs_alone_s'])})"
        + (f"; predicted {show_seconds(answer['predicted_s'])}." if answer["predicted_s"] else ".")
    )
    if len(timeline.latencies_s) > 1:
        console.print(f"{answer['inferences_per_s']:.3g} inferences per second.")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("rank", "busy", "sent MB", "received MB"):
        table.add_column(column, justify="right")
    rows = list(zip(answer["busy"], timeline.card_bytes, strict=True))
    shown = rows if len(rows) <= 12 else rows[:6]
    for rank, (busy, (sent, received)) in enumerate(shown):
        table.add_row(str(rank), f"{busy:.0%}", f"{sent / 1e6:.2f}", f"{received / 1e6:.2f}")
    console.print(table)
    if len(shown) < len(rows):
        rest = [busy for busy, _ in rows[len(shown) :]]
        console.print(f"… and {len(rest)} more, busy {min(rest):.0%} to {max(rest):.0%}.")


__all__ = ["simulate"]

if __name__ == "__main__":
    typer.run(simulate)
